//! Which feature level of a bundle a card and its driver can run.

use q35_bundle::CudaLevel;
use q35_diag::{Code, Diagnostic, Diagnostics, Result};

/// What a card and its driver are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The card's name.
    pub(super) name: String,
    /// Compute capability.
    pub(super) capability: (u32, u32),
    /// The CUDA version that the driver belongs to: 1000 times the major version plus 10 times the minor.
    pub(super) driver: u32,
}

fn version(driver: u32) -> String {
    format!("{}.{}", driver / 1000, driver % 1000 / 10)
}

/// What of a level is missing here.
fn lacks(level: &CudaLevel, facts: &Facts) -> Option<String> {
    let needed = (level.major, level.minor);
    let (major, minor) = facts.capability;
    let fits = if level.exact { facts.capability == needed } else { facts.capability >= needed };
    if !fits {
        let bound = if level.exact { "exactly" } else { "at least" };
        return Some(format!(
            "{bound} compute capability {}.{}, and {} has {major}.{minor}",
            level.major, level.minor, facts.name
        ));
    }
    (facts.driver < level.driver)
        .then(|| format!("a driver for CUDA {} or later, and this one is for {}", version(level.driver), version(facts.driver)))
}

/// The wanted level, or the first that card and driver can run.
pub(super) fn pick<'a>(levels: &'a [CudaLevel], wanted: Option<&str>, facts: &Facts) -> Result<&'a CudaLevel> {
    let candidates: Vec<_> = levels.iter().filter(|level| wanted.is_none_or(|w| level.name == w)).collect();
    if let (Some(wanted), []) = (wanted, &candidates[..]) {
        let names = levels.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ");
        let what = format!("the bundle has no feature level '{wanted}'");
        return Err(Diagnostic::error(Code::FeatureMissing, what).help(format!("it has: {names}")).into());
    }
    let mut missing = Diagnostics::new();
    for level in candidates {
        match lacks(level, facts) {
            None => return Ok(level),
            Some(what) => {
                let what = format!("feature level '{}' needs {what}", level.name);
                missing.push(Diagnostic::error(Code::FeatureMissing, what));
            }
        }
    }
    if missing.is_empty() {
        missing.push(Diagnostic::error(Code::FeatureMissing, "the bundle has no feature level"));
    }
    Err(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(name: &str, major: u32, minor: u32, exact: bool, driver: u32) -> CudaLevel {
        CudaLevel { name: name.into(), file: format!("{name}.ptx"), major, minor, exact, driver }
    }

    fn levels() -> Vec<CudaLevel> {
        vec![level("sm_90a", 9, 0, true, 12_000), level("sm_89", 8, 9, false, 11_080), level("sm_80", 8, 0, false, 11_000)]
    }

    fn facts(major: u32, minor: u32, driver: u32) -> Facts {
        Facts { name: "Card".into(), capability: (major, minor), driver }
    }

    #[test]
    fn the_best_that_card_and_driver_can_run() {
        let levels = levels();
        let picked = |facts: Facts| pick(&levels, None, &facts).map(|level| level.name.clone()).unwrap_or_default();
        assert_eq!(picked(facts(9, 0, 12_040)), "sm_90a");
        assert_eq!(picked(facts(9, 0, 11_080)), "sm_89");
        assert_eq!(picked(facts(10, 0, 13_000)), "sm_89");
        assert_eq!(picked(facts(8, 6, 11_040)), "sm_80");
    }

    #[test]
    fn what_is_missing_is_said_level_by_level() {
        let text = |wanted: Option<&str>, facts: Facts| pick(&levels(), wanted, &facts).unwrap_err().to_string();
        assert_eq!(
            text(Some("sm_80"), facts(7, 5, 12_000)),
            "error[Q35-0504]: feature level 'sm_80' needs at least compute capability 8.0, and Card has 7.5"
        );
        assert_eq!(
            text(Some("sm_89"), facts(8, 9, 11_040)),
            "error[Q35-0504]: feature level 'sm_89' needs a driver for CUDA 11.8 or later, and this one is for 11.4"
        );
        assert!(text(None, facts(7, 0, 12_000)).matches("error[").count() == 3);
        assert_eq!(
            text(Some("sm_70"), facts(9, 0, 12_000)),
            "error[Q35-0504]: the bundle has no feature level 'sm_70'\n  help: it has: sm_90a, sm_89, sm_80"
        );
    }
}
