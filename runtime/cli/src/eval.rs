//! `q35 eval`: perplexity of a text, or divergence from another bundle on it.

use crate::args::Eval;
use crate::output;
use q35_console::Progress;
use q35_diag::{Code, Diagnostic, Result};
use q35_runtime::Session;
use q35_runtime::divergence::divergence;
use q35_runtime::perplexity::{perplexity, windows};
use q35_runtime::text::Text;

/// Runs the command.
pub(crate) fn run(args: &Eval) -> Result<()> {
    let bundle = args.opened.open()?;
    let bytes = output::read(&args.text)?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let what = format!("the file is no UTF-8 text: byte {} begins no character", e.utf8_error().valid_up_to());
        Diagnostic::error(Code::BadText, what).at("file", args.text.display())
    })?;
    let tokens = Text::open(&bundle)?.encode(&text)?;
    let window = (args.window as usize).min(bundle.manifest().model.context as usize);
    let against = args.against.as_deref().map(|path| args.opened.open_other(path)).transpose()?;
    let window = against.as_ref().map_or(window, |bundle| window.min(bundle.manifest().model.context as usize));
    let (count, window) = windows(tokens.len(), window);
    let mut session = Session::new(bundle, &args.machine.options(window))?;
    let mut progress = Progress::default();
    if let Some(against) = against {
        let mut reference = Session::new(against, &args.machine.options(window))?;
        let done = |done| progress.at(done as u64, count as u64, "divergence");
        let result = divergence(&mut reference, &mut session, &tokens, window, done)?;
        if args.json {
            return output::print_json(&result);
        }
        let error = result.standard_error_x1000.map(|error| format!(" +- {error:.3}")).unwrap_or_default();
        return output::print(&format!(
            "KL x 1000 {:.3}{error}, top-1 agreement {:.2} %, perplexity {:.4} against {:.4} ({} tokens scored, windows of {})\n",
            result.kl_x1000,
            100.0 * result.agreement,
            result.perplexity,
            result.reference_perplexity,
            result.scored,
            result.window
        ));
    }
    let result = perplexity(&mut session, &tokens, window, |done| progress.at(done as u64, count as u64, "perplexity"))?;
    if args.json {
        return output::print_json(&result);
    }
    output::print(&format!(
        "perplexity {:.4} ({} tokens scored, windows of {})\n",
        result.perplexity, result.scored, result.window
    ))
}
