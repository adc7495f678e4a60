//! `q35c cache`: what a cache of packed weights holds, and an end to it.

use crate::cache;
use crate::cli::Cache;
use crate::size;
use q35_diag::{Code, Diagnostic, Result};

/// Shows or clears a cache.
pub fn run(options: &Cache) -> Result<String> {
    let Some(folder) = cache::folder(options.folder.as_deref()) else {
        let what = format!("no folder is given, and the variable {} names none", cache::VARIABLE);
        return Err(Diagnostic::error(Code::BadOption, what).help("compiles use a cache with --cache DIR").into());
    };
    let held = if options.clear { cache::clear(&folder)? } else { cache::holding(&folder) };
    if options.json {
        return super::json(
            &serde_json::json!({ "folder": folder.display().to_string(), "cleared": options.clear, "held": held }),
        );
    }
    let what = if options.clear { "removed" } else { "holds" };
    Ok(format!("{} {what} {} packed weights, {}\n", folder.display(), held.entries, size::show(held.bytes)))
}
