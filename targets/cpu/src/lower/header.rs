//! `model.h`: the kernels' prototypes, for programs that link the object.

use crate::abi::symbol;
use crate::level::Level;
use std::fmt::Write;

const ABI: &str = "\
 * A kernel computes the tiles begin..end of one step:
 *
 *   args   addresses of the step's bindings, in order (manifest.json, steps[].args)
 *   dims   { tokens, logit rows, cache slots, cache entries per slot }
 *
 * Kernels keep no state, call nothing and may run in parallel on disjoint tiles. The suffix of a symbol after the last two
 * underscores is its feature level; call only levels whose requirements the machine meets (manifest.json, device.levels).";

/// The text of the header. `kernels` are names without prefix and suffix, in order.
pub(crate) fn text(prefix: &str, kernels: &[String], levels: &[Level]) -> String {
    let guard: String = format!("{prefix}MODEL_H").to_ascii_uppercase();
    let mut text = format!("/* Written by q35c.\n *\n{ABI}\n */\n#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n");
    text += "#ifdef __cplusplus\nextern \"C\" {\n#endif\n";
    for kernel in kernels {
        text.push('\n');
        for &level in levels {
            let name = format!("{prefix}{}", symbol(kernel, level));
            let _ = writeln!(text, "void {name}(void *const *args, const int64_t *dims, int64_t begin, int64_t end);");
        }
    }
    text += "\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n";
    text
}
