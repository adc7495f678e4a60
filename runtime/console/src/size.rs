//! Byte sizes as people write and read them.

/// Reads `512M`, `1.5GiB`, `80GB`, `4096`. `K`, `M`, `G`, `T` and their `iB` forms are powers of 1024, the `B` forms powers of 1000.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| format!("'{text}' is no size; write for example 8G or 512M"))?;
    let unit = unit.trim().to_ascii_lowercase();
    let power = |letter: &str| ["", "k", "m", "g", "t"].iter().position(|l| *l == letter).map(|p| p as i32);
    let factor = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b').is_none().then_some(unit.as_str())) {
        Some(letter) => power(letter).map(|p| 1024f64.powi(p)),
        None => power(unit.trim_end_matches('b')).map(|p| 1000f64.powi(p)),
    };
    let bytes = number * factor.ok_or_else(|| format!("'{unit}' is no unit of size; use K, M, G or T"))?;
    if bytes < 1.0 || bytes >= 2f64.powi(63) { Err(format!("'{text}' is no usable size")) } else { Ok(bytes as u64) }
}

/// Three significant digits and a binary unit: `23.1 MiB`.
pub fn show(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 { 0 } else { 2usize.saturating_sub(value.max(1.0).log10() as usize) };
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, bytes) in [
            ("4096", 4096),
            ("1k", 1024),
            ("1.5GiB", 3 << 29),
            ("8G", 8 << 30),
            ("80GB", 80_000_000_000),
            ("2 MB", 2_000_000),
            ("7b", 7),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "-1G", "1X", "0", "1e9", "9999999T", "1.2.3M"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn three_digits() {
        assert_eq!(show(0), "0 B");
        assert_eq!(show(999), "999 B");
        assert_eq!(show(1023), "1.00 KiB");
        assert_eq!(show(24_222_222), "23.1 MiB");
        assert_eq!(show(3 << 29), "1.50 GiB");
    }
}
