//! Energy that the processor's packages took, as far as the system tells: Linux' `powercap` interface to the RAPL counters.

use std::fs;
use std::path::{Path, PathBuf};

/// Where Linux lists domains of power.
const ROOT: &str = "/sys/class/powercap";

/// The counters of all packages of this machine; none where the system has none or lets this user read none.
#[derive(Debug)]
pub(super) struct Meter {
    domains: Vec<Domain>,
}

/// A counter of microjoules that begins anew after its largest value.
#[derive(Debug)]
struct Domain {
    counter: PathBuf,
    largest: u64,
}

impl Meter {
    /// The packages of this machine.
    pub(super) fn open() -> Self {
        Self::below(Path::new(ROOT))
    }

    /// Domains named `package-N`, and memory where it is counted apart from them, without their parts.
    fn below(root: &Path) -> Self {
        let zones = fs::read_dir(root).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let domain = |zone: PathBuf| {
            let name = fs::read_to_string(zone.join("name")).ok()?;
            let counter = zone.join("energy_uj");
            number(&counter)?;
            let counted = name.starts_with("package") || name.trim() == "dram";
            counted.then_some(Domain { counter, largest: number(&zone.join("max_energy_range_uj"))? })
        };
        let mut domains: Vec<Domain> = zones.filter_map(domain).collect();
        domains.sort_by(|a, b| a.counter.cmp(&b.counter));
        Self { domains }
    }

    /// The counters now; `None` where there are none.
    pub(super) fn joules(&self) -> Option<Vec<u64>> {
        let values = self.domains.iter().map(|domain| number(&domain.counter)).collect::<Option<Vec<u64>>>()?;
        (!values.is_empty()).then_some(values)
    }

    /// Joules between two readings that are less than a turn of a counter apart.
    pub(super) fn between(&self, before: Vec<u64>, after: Vec<u64>) -> f64 {
        let turns = self.domains.iter().zip(before.into_iter().zip(after));
        turns
            .map(|(domain, (before, after))| if after >= before { after - before } else { after + domain.largest - before })
            .sum::<u64>() as f64
            / 1e6
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_summed_and_counters_turn_over() {
        let dir = tempfile::tempdir().unwrap();
        let zone = |zone: &str, name: &str, energy: u64| {
            let zone = dir.path().join(zone);
            fs::create_dir_all(&zone).unwrap();
            fs::write(zone.join("name"), format!("{name}\n")).unwrap();
            fs::write(zone.join("energy_uj"), format!("{energy}\n")).unwrap();
            fs::write(zone.join("max_energy_range_uj"), "10000000\n").unwrap();
        };
        assert_eq!(Meter::below(dir.path()).joules(), None);
        zone("intel-rapl:0", "package-0", 1_000_000);
        zone("intel-rapl:0:0", "core", 500_000);
        zone("intel-rapl:0:1", "dram", 100_000);
        zone("intel-rapl:1", "package-1", 9_000_000);
        let meter = Meter::below(dir.path());
        let before = meter.joules().unwrap();
        assert_eq!(before, [1_000_000, 100_000, 9_000_000]);
        zone("intel-rapl:0", "package-0", 3_500_000);
        zone("intel-rapl:1", "package-1", 1_000_000);
        assert_eq!(meter.between(before, meter.joules().unwrap()), 2.5 + 2.0);
    }
}
