//! Which element of an array lies in which lane: runs of arithmetic progressions.

use crate::geometry::LANES;
use serde::{Deserialize, Serialize};

/// Lanes `lane..lane + count` hold elements `first`, `first + step`, ...
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Run {
    /// First lane.
    pub lane: u32,
    /// Lanes.
    pub count: u32,
    /// Element of the first lane.
    pub first: u32,
    /// From one lane's element to the next one's.
    pub step: u32,
}

/// A map from lanes to elements; lanes in no run hold none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lanes(pub Vec<Run>);

impl Lanes {
    /// The map that gives each lane in order what it says.
    pub fn of(elements: impl IntoIterator<Item = Option<u32>>) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        for (lane, element) in (0u32..).zip(elements) {
            let Some(element) = element else { continue };
            if let Some(run) = runs.last_mut().filter(|run| run.lane + run.count == lane) {
                if run.count == 1 && element >= run.first {
                    run.step = element - run.first;
                }
                if run.first.checked_add(run.count * run.step) == Some(element) {
                    run.count += 1;
                    continue;
                }
            }
            runs.push(Run { lane, count: 1, first: element, step: 0 });
        }
        Self(runs)
    }

    /// Every lane that has an element, with it, in order. Elements are below `elements`.
    ///
    /// # Errors
    /// A run that leaves the vector or the array.
    pub fn pairs(&self, elements: usize) -> Result<Vec<(usize, usize)>, String> {
        let mut pairs = Vec::new();
        for run in &self.0 {
            let last = u64::from(run.first) + u64::from(run.step) * u64::from(run.count.saturating_sub(1));
            if u64::from(run.lane) + u64::from(run.count) > LANES as u64 || last >= elements as u64 {
                return Err(format!(
                    "lanes {} to {} hold element {last} of {elements}",
                    run.lane,
                    run.lane as u64 + u64::from(run.count)
                ));
            }
            pairs.extend((0..run.count).map(|i| ((run.lane + i) as usize, (run.first + i * run.step) as usize)));
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_what_they_came_from() {
        let cases: [Vec<Option<u32>>; 4] = [
            (0..320).map(|i| Some(2 * i)).collect(),
            vec![None, Some(5), Some(5), Some(5), None, Some(1)],
            vec![Some(9), Some(3), Some(4), Some(5), Some(7)],
            vec![],
        ];
        for elements in cases {
            let lanes = Lanes::of(elements.iter().copied());
            let expected: Vec<(usize, usize)> =
                elements.iter().enumerate().filter_map(|(lane, e)| Some((lane, (*e)? as usize))).collect();
            assert_eq!(lanes.pairs(640).unwrap(), expected);
        }
        assert_eq!(Lanes::of((0..320).map(Some)).0.len(), 1);
        assert!(Lanes::of([Some(7)]).pairs(7).is_err());
        assert!(Lanes(vec![Run { lane: 319, count: 2, first: 0, step: 0 }]).pairs(9).is_err());
    }
}
