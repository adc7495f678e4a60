//! Which feature level of a bundle a card and its driver can run.

use q35_bundle::{CudaLevel, RocmLevel};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};

/// What an NVIDIA card and its driver are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CudaFacts {
    /// The card's name.
    pub(super) name: String,
    /// Compute capability.
    pub(super) capability: (u32, u32),
    /// The CUDA version that the driver belongs to: 1000 times the major version plus 10 times the minor.
    pub(super) driver: u32,
}

/// What an AMD card is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HipFacts {
    /// The card's name.
    pub(super) name: String,
    /// Its architecture, without the features that may follow a colon.
    pub(super) architecture: String,
}

fn version(driver: u32) -> String {
    format!("{}.{}", driver / 1000, driver % 1000 / 10)
}

impl CudaFacts {
    /// What of a level is missing here.
    pub(super) fn lacks(&self, level: &CudaLevel) -> Option<String> {
        let needed = (level.major, level.minor);
        let (major, minor) = self.capability;
        let fits = if level.exact { self.capability == needed } else { self.capability >= needed };
        if !fits {
            let bound = if level.exact { "exactly" } else { "at least" };
            return Some(format!(
                "{bound} compute capability {}.{}, and {} has {major}.{minor}",
                level.major, level.minor, self.name
            ));
        }
        (self.driver < level.driver).then(|| {
            format!("a driver for CUDA {} or later, and this one is for {}", version(level.driver), version(self.driver))
        })
    }
}

impl HipFacts {
    /// What of a level is missing here.
    pub(super) fn lacks(&self, level: &RocmLevel) -> Option<String> {
        (self.architecture != level.name)
            .then(|| format!("a card of that architecture, and {} is {}", self.name, self.architecture))
    }
}

/// The wanted level, or the first that lacks nothing.
pub(super) fn pick<'a, L>(
    levels: &'a [L],
    wanted: Option<&str>,
    name: impl Fn(&L) -> &str,
    lacks: impl Fn(&L) -> Option<String>,
) -> Result<&'a L> {
    let candidates: Vec<_> = levels.iter().filter(|level| wanted.is_none_or(|w| name(level) == w)).collect();
    if let (Some(wanted), []) = (wanted, &candidates[..]) {
        let names = levels.iter().map(name).collect::<Vec<_>>().join(", ");
        let what = format!("the bundle has no feature level '{wanted}'");
        return Err(Diagnostic::error(Code::FeatureMissing, what).help(format!("it has: {names}")).into());
    }
    let mut missing = Diagnostics::new();
    for level in candidates {
        match lacks(level) {
            None => return Ok(level),
            Some(what) => {
                let what = format!("feature level '{}' needs {what}", name(level));
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

    fn facts(major: u32, minor: u32, driver: u32) -> CudaFacts {
        CudaFacts { name: "Card".into(), capability: (major, minor), driver }
    }

    fn pick_cuda<'a>(levels: &'a [CudaLevel], wanted: Option<&str>, facts: &CudaFacts) -> Result<&'a CudaLevel> {
        pick(levels, wanted, |level| &level.name, |level| facts.lacks(level))
    }

    #[test]
    fn the_best_that_card_and_driver_can_run() {
        let levels = levels();
        let picked = |facts: CudaFacts| pick_cuda(&levels, None, &facts).map(|level| level.name.clone()).unwrap_or_default();
        assert_eq!(picked(facts(9, 0, 12_040)), "sm_90a");
        assert_eq!(picked(facts(9, 0, 11_080)), "sm_89");
        assert_eq!(picked(facts(10, 0, 13_000)), "sm_89");
        assert_eq!(picked(facts(8, 6, 11_040)), "sm_80");
    }

    #[test]
    fn what_is_missing_is_said_level_by_level() {
        let text = |wanted: Option<&str>, facts: CudaFacts| pick_cuda(&levels(), wanted, &facts).unwrap_err().to_string();
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

    #[test]
    fn an_architecture_is_met_exactly() {
        let level = |name: &str| RocmLevel { name: name.into(), file: String::new(), wave: 64, threads: Default::default() };
        let levels = [level("gfx942"), level("gfx90a")];
        let picked = |architecture: &str| {
            let facts = HipFacts { name: "Card".into(), architecture: architecture.into() };
            pick(&levels, None, |level| &level.name, |level| facts.lacks(level)).map(|level| level.name.clone())
        };
        assert_eq!(picked("gfx90a").unwrap_or_default(), "gfx90a");
        assert!(
            picked("gfx906")
                .unwrap_err()
                .to_string()
                .starts_with("error[Q35-0504]: feature level 'gfx942' needs a card of that architecture, and Card is gfx906")
        );
    }
}
