//! What was measured, in a file: rounds may be made one by one.

use super::contender::{Contender, Speed, Workload};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;

/// One contender in one round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    /// Program and file, by their content.
    pub(super) key: String,
    pub(super) threads: u16,
    pub(super) hogs: u16,
    pub(super) work: Workload,
    pub(super) round: u32,
    #[serde(flatten)]
    pub(super) speed: Speed,
}

/// All samples of a model.
pub(super) struct Samples {
    path: PathBuf,
    pub(super) all: Vec<Sample>,
    /// Rounds that are complete.
    pub(super) round: u32,
}

impl Sample {
    pub(super) fn new(contender: &Contender, threads: u16, hogs: u16, work: Workload, round: u32, speed: Speed) -> Self {
        Self { key: contender.key().to_owned(), threads, hogs, work, round, speed }
    }
}

impl Samples {
    /// The samples in a file, if it is there.
    pub(super) fn open(path: PathBuf) -> Result<Self, String> {
        let all: Vec<Sample> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))?,
            Err(_) => Vec::new(),
        };
        let round = all.iter().map(|sample| sample.round).max().unwrap_or(0);
        Ok(Self { path, all, round })
    }

    /// Adds one to the round that is being made.
    pub(super) fn add(&mut self, sample: Sample) {
        self.all.push(sample);
    }

    /// Ends a round and keeps it.
    pub(super) fn end_round(&mut self) -> Result<(), String> {
        self.round += 1;
        let text = serde_json::to_string(&self.all).map_err(|e| e.to_string())?;
        let partial = self.path.with_extension("partial");
        let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, &self.path));
        written.map_err(|e| format!("{} cannot be written: {e}", self.path.display()))
    }
}
