//! Continues a prompt with a model that is linked into the program.
//!
//! ```text
//! cargo run --manifest-path examples/rust/Cargo.toml -- 16 2707 291 271
//! ```

#[allow(dead_code, reason = "this program needs a part of it")]
mod model {
    include!(concat!(env!("OUT_DIR"), "/q35_model.rs"));
}

use model::{Config, Context, Weights};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers = std::env::args().skip(1).map(|word| word.parse()).collect::<Result<Vec<u32>, _>>()?;
    let [count, prompt @ ..] = &numbers[..] else { return Err("usage: generate COUNT TOKEN...".into()) };

    let weights = Weights::read(env!("WEIGHTS"))?;
    let mut context = Context::open(&weights, Config::default())?;
    let mut tokens = prompt.to_vec();
    let mut new = Vec::new();
    while new.len() < *count as usize {
        let logits = context.step(0, &tokens)?;
        let best = (1..logits.len()).fold(0, |best, token| if logits[token] > logits[best] { token } else { best });
        tokens = vec![best as u32];
        new.push(best.to_string());
    }
    println!("{}", new.join(","));
    Ok(())
}
