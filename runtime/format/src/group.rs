//! Which weights of a row share one scale.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::FormatError;

/// The columns that share a scale (and an offset, where the codec has one).
///
/// Written `row`, `64` or `128`, on the command line and in manifests alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Group {
    /// One scale for the whole row.
    Row,
    /// One scale for every run of this many columns, 64 or 128; the last run of a row may be shorter.
    Columns(u32),
}

impl Group {
    /// Column counts a group may have. All are even, so no container straddles two groups.
    pub const COLUMNS: [u32; 2] = [64, 128];

    /// Groups in a row of `cols` weights.
    pub fn count(self, cols: usize) -> usize {
        match self {
            Group::Row => 1,
            Group::Columns(n) => cols.div_ceil(n as usize),
        }
    }

    /// Columns of a row of `cols` weights that belong to `group`.
    pub fn columns(self, cols: usize, group: usize) -> Range<usize> {
        match self {
            Group::Row => 0..cols,
            Group::Columns(n) => {
                let start = group * n as usize;
                start.min(cols)..(start + n as usize).min(cols)
            }
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Group::Row => f.write_str("row"),
            Group::Columns(n) => write!(f, "{n}"),
        }
    }
}

impl FromStr for Group {
    type Err = FormatError;

    fn from_str(name: &str) -> Result<Self, FormatError> {
        let unknown = || FormatError::UnknownGroup(name.to_owned());
        if name == "row" {
            return Ok(Group::Row);
        }
        let columns = name.parse().map_err(|_| unknown())?;
        Self::COLUMNS.contains(&columns).then_some(Group::Columns(columns)).ok_or_else(unknown)
    }
}

impl TryFrom<String> for Group {
    type Error = FormatError;

    fn try_from(name: String) -> Result<Self, FormatError> {
        name.parse()
    }
}

impl From<Group> for String {
    fn from(group: Group) -> String {
        group.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_tile_the_row() {
        for (cols, ends) in [(1, vec![1]), (64, vec![64]), (130, vec![64, 128, 130])] {
            let group = Group::Columns(64);
            let found: Vec<_> = (0..group.count(cols)).map(|g| group.columns(cols, g)).collect();
            let starts = [0].into_iter().chain(ends.clone());
            assert_eq!(found, starts.zip(ends).map(|(start, end)| start..end).collect::<Vec<_>>());
        }
        assert_eq!((Group::Row.count(130), Group::Row.columns(130, 0)), (1, 0..130));
    }

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for name in ["row", "64", "128"] {
            assert_eq!(name.parse::<Group>().unwrap().to_string(), name);
        }
        for name in ["", "0", "32", "63", "Row", "-64", "99999999999"] {
            assert!(name.parse::<Group>().is_err(), "{name}");
            assert!(serde_json::from_value::<Group>(name.into()).is_err(), "{name}");
        }
    }
}
