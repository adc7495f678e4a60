//! Continues a prompt token by token.

use crate::sampling::{Sampler, Settings};
use crate::{Chunk, Session, Want};
use q35_diag::{Code, Diagnostic, Result};
use serde::Serialize;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The model said so: a stop token.
    Token,
    /// As many tokens as were asked for.
    Count,
    /// The cache is full.
    Full,
    /// The sink wanted no more.
    Sink,
}

/// What happens during a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// So many tokens of the prompt are in the cache.
    Prompt(usize),
    /// A new token.
    Token(u32),
}

/// What came out, and how long it took.
#[derive(Clone, Debug)]
pub struct Generation {
    /// New tokens, without the stop token.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub stop: Stop,
    /// From the start to the logits after the prompt.
    pub prefill: Duration,
    /// From there to the end.
    pub decode: Duration,
}

/// The token after a chunk that wants the last logits.
fn next(session: &mut Session, chunk: Chunk<'_>, sampler: &mut Sampler) -> Result<u32> {
    if sampler.is_greedy() {
        return Ok(session.choose(&[chunk])?.first().copied().unwrap_or(0));
    }
    Ok(sampler.choose(session.step(&[chunk])?.row(0)))
}

/// Continues slot 0 by `prompt` and then by up to `count` tokens. `sink` hears of every event; it may end
/// the generation, or end it all by an error.
pub fn generate(
    session: &mut Session,
    prompt: &[u32],
    count: usize,
    settings: Settings,
    stops: &BTreeSet<u32>,
    mut sink: impl FnMut(Event) -> Result<ControlFlow<()>>,
) -> Result<Generation> {
    if prompt.is_empty() {
        return Err(Diagnostic::error(Code::BadText, "the prompt has no tokens")
            .help("give at least one token to continue")
            .into());
    }
    let mut sampler = Sampler::new(settings);
    let begin = Instant::now();
    session.check_room(0, prompt.len())?;
    let (mut done, mut ended, mut token) = (0, false, 0);
    for tokens in prompt.chunks(session.max_tokens()) {
        done += tokens.len();
        let last = done == prompt.len();
        let want = if last { Want::Last } else { Want::Nothing };
        let chunk = Chunk { slot: 0, tokens, positions: None, want };
        token = if last { next(session, chunk, &mut sampler)? } else { session.step(&[chunk]).map(|_| 0)? };
        ended = sink(Event::Prompt(done))?.is_break();
        if ended {
            break;
        }
    }
    let prefill = begin.elapsed();
    let mut tokens = Vec::new();
    let stop = loop {
        if ended {
            break Stop::Sink;
        }
        if tokens.len() == count {
            break Stop::Count;
        }
        if stops.contains(&token) {
            break Stop::Token;
        }
        tokens.push(token);
        ended = sink(Event::Token(token))?.is_break();
        if ended {
            continue;
        }
        if tokens.len() == count {
            break Stop::Count;
        }
        if session.length(0) == session.capacity() {
            break Stop::Full;
        }
        token = next(session, Chunk { slot: 0, tokens: &[token], positions: None, want: Want::Last }, &mut sampler)?;
    };
    Ok(Generation { tokens, stop, prefill, decode: begin.elapsed() - prefill })
}
