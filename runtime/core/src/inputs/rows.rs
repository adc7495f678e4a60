//! Which columns of a padded batch are tokens, and what positions they have.
//!
//! Columns `0..P` of a mask are the cache, `P..P+S` the input. A mask of width `S` leaves the whole cache valid. Where the graph
//! only counts ones ([`PositionRule::Unmasked`]) and there is a cache, a row of `L >= S` ones followed by zeros means: the first
//! `L - S` entries of the cache, and every new token; the new entries follow those.

use super::bad;
use q35_bundle::PositionRule;
use q35_diag::{Diagnostic, Diagnostics, Result};

/// A matrix of integers, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<i64>,
}

impl Grid {
    fn row(&self, n: usize) -> &[i64] {
        &self.values[n * self.columns..][..self.columns]
    }
}

/// One row of the batch without its padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// Columns of the cache to load.
    pub(super) past: Vec<usize>,
    /// Token ids.
    pub(super) tokens: Vec<u32>,
    /// Column of the input of each token.
    pub(super) columns: Vec<usize>,
    /// Position of each token.
    pub(super) positions: Vec<u32>,
    /// Column of the cache output of each token.
    pub(super) present: Vec<usize>,
}

/// The rows of a batch. `windowed` says that some layer's attention counts distances, which a hole in the mask would change.
pub(super) fn rows(
    tokens: &Grid,
    mask: Option<&Grid>,
    positions: Option<&Grid>,
    past: usize,
    rule: PositionRule,
    windowed: bool,
) -> Result<Vec<Row>> {
    let (batch, new) = (tokens.rows, tokens.columns);
    let mut wrong = Diagnostics::new();
    if let Some(mask) = mask.filter(|m| m.rows != batch || ![new, past + new].contains(&m.columns)) {
        wrong.push(bad(format!("the mask has shape [{}, {}] instead of [{batch}, {}]", mask.rows, mask.columns, past + new)));
    }
    let positions = positions.filter(|_| rule == PositionRule::Given);
    if let Some(p) = positions.filter(|p| ![1, batch].contains(&p.rows) || p.columns != new) {
        wrong.push(bad(format!("the positions have shape [{}, {}] instead of [{batch}, {new}]", p.rows, p.columns)));
    }
    if wrong.has_errors() {
        return Err(wrong);
    }
    let row = |b: usize| -> std::result::Result<Row, Diagnostic> {
        let mut row = Row::default();
        let valid: Vec<bool> = match mask {
            None => vec![true; past + new],
            Some(mask) => {
                vec![true; past + new - mask.columns].into_iter().chain(mask.row(b).iter().map(|m| *m != 0)).collect()
            }
        };
        let ones = valid.iter().take_while(|v| **v).count();
        let counted = rule == PositionRule::Unmasked && ones >= new && !valid[ones..].contains(&true);
        row.past = if counted { (0..ones - new).collect() } else { (0..past).filter(|p| valid[*p]).collect() };
        row.columns = (0..new).filter(|c| counted || valid[past + c]).collect();
        row.present = row.columns.iter().map(|c| if counted { ones - new + c } else { past + c }).collect();

        let visible = || row.past.iter().chain(&row.present);
        if windowed && visible().zip(visible().skip(1)).any(|(a, b)| b - a != 1) {
            return Err(bad(format!(
                "the mask of row {b} has a hole, and sliding-window attention counts the distance across it"
            )));
        }
        for (i, column) in row.columns.iter().enumerate() {
            let token = tokens.row(b)[*column];
            row.tokens.push(u32::try_from(token).map_err(|_| {
                Diagnostic::error(
                    q35_diag::Code::TokenOutOfRange,
                    format!("token {token} in row {b}, column {column} is outside any vocabulary"),
                )
            })?);
            let position = match (rule, positions) {
                (PositionRule::Given, Some(p)) => p.row(b % p.rows)[*column],
                (PositionRule::Unmasked, _) => (row.past.len() + i) as i64,
                _ => (past + column) as i64,
            };
            row.positions.push(
                u32::try_from(position)
                    .map_err(|_| bad(format!("position {position} in row {b}, column {column} is no position")))?,
            );
        }
        Ok(row)
    };
    let rows = (0..batch).filter_map(|b| wrong.absorb(row(b).map_err(Into::into))).collect();
    wrong.into_result(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(rows: &[&[i64]]) -> Grid {
        Grid { rows: rows.len(), columns: rows[0].len(), values: rows.concat() }
    }

    fn row(past: &[usize], tokens: &[u32], columns: &[usize], positions: &[u32], present: &[usize]) -> Row {
        Row {
            past: past.into(),
            tokens: tokens.into(),
            columns: columns.into(),
            positions: positions.into(),
            present: present.into(),
        }
    }

    #[test]
    fn left_padding_with_given_positions_and_a_cache() {
        let (ids, mask, positions) = (grid(&[&[5, 6], &[7, 8]]), grid(&[&[0, 1, 1, 1, 1], &[1; 5]]), grid(&[&[2, 3], &[3, 4]]));
        let found = rows(&ids, Some(&mask), Some(&positions), 3, PositionRule::Given, true).unwrap();
        assert_eq!(
            found,
            [row(&[1, 2], &[5, 6], &[0, 1], &[2, 3], &[3, 4]), row(&[0, 1, 2], &[7, 8], &[0, 1], &[3, 4], &[3, 4])]
        );
    }

    #[test]
    fn padding_counts_as_positions_by_column() {
        let (ids, mask) = (grid(&[&[9, 5, 6]]), grid(&[&[0, 1, 1]]));
        assert_eq!(
            rows(&ids, Some(&mask), None, 0, PositionRule::Column, false).unwrap(),
            [row(&[], &[5, 6], &[1, 2], &[1, 2], &[1, 2])]
        );
        assert_eq!(
            rows(&ids, Some(&mask), None, 0, PositionRule::Given, false).unwrap(),
            [row(&[], &[5, 6], &[1, 2], &[1, 2], &[1, 2])]
        );
    }

    #[test]
    fn right_padding_where_only_ones_are_counted() {
        let (ids, mask) = (grid(&[&[5, 6, -1]]), grid(&[&[1, 1, 0]]));
        assert_eq!(
            rows(&ids, Some(&mask), None, 0, PositionRule::Unmasked, false).unwrap(),
            [row(&[], &[5, 6], &[0, 1], &[0, 1], &[0, 1])]
        );
        // One new token on a cache of three entries, of which this row uses two.
        let (ids, mask) = (grid(&[&[5]]), grid(&[&[1, 1, 1, 0]]));
        assert_eq!(
            rows(&ids, Some(&mask), None, 3, PositionRule::Unmasked, true).unwrap(),
            [row(&[0, 1], &[5], &[0], &[2], &[2])]
        );
    }

    #[test]
    fn rows_without_any_token_and_batches_without_mask() {
        let ids = grid(&[&[5, 6], &[7, 8]]);
        let mask = grid(&[&[0, 0], &[1, 1]]);
        assert_eq!(
            rows(&ids, Some(&mask), None, 0, PositionRule::Column, true).unwrap(),
            [row(&[], &[], &[], &[], &[]), row(&[], &[7, 8], &[0, 1], &[0, 1], &[0, 1])]
        );
        assert_eq!(
            rows(&ids, None, None, 1, PositionRule::Column, true).unwrap()[1],
            row(&[0], &[7, 8], &[0, 1], &[1, 2], &[1, 2])
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let ids = grid(&[&[5, -6, 7], &[1, 1, -2]]);
        let say = |mask: Option<Grid>, positions: Option<Grid>, windowed| {
            rows(&ids, mask.as_ref(), positions.as_ref(), 0, PositionRule::Given, windowed).unwrap_err().to_string()
        };
        assert_eq!(
            say(None, None, false),
            "error[Q35-0601]: token -6 in row 0, column 1 is outside any vocabulary\nerror[Q35-0601]: token -2 in row 1, column 2 is outside any vocabulary"
        );
        assert_eq!(
            say(Some(grid(&[&[1]])), Some(grid(&[&[1]])), false),
            "error[Q35-0604]: the mask has shape [1, 1] instead of [2, 3]\nerror[Q35-0604]: the positions have shape [1, 1] instead of [2, 3]"
        );
        assert_eq!(
            say(Some(grid(&[&[1, 0, 1], &[1, 1, 0]])), None, true),
            "error[Q35-0604]: the mask of row 0 has a hole, and sliding-window attention counts the distance across it"
        );
    }
}
