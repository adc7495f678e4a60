//! `assign-kv-cache`: gives every layer of the KV cache its element type.
//!
//! Keys and values are rounded where they are written; what attention reads is widened again, and it computes in f32 as before.

use super::WeightOptions;
use q35_dialects::Model;
use q35_dialects::q35::assign_cache_dtype;

pub(super) fn run(model: &mut Model, options: &WeightOptions) {
    assign_cache_dtype(&mut model.graph, options.kv_cache);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{model, options};
    use super::*;
    use q35_bundle::CacheDtype;
    use q35_dialects::verify;
    use q35_format::Codec;

    #[test]
    fn ops_and_types_say_the_same() {
        let mut m = model(false);
        run(&mut m, &WeightOptions { kv_cache: CacheDtype::F16, ..options(Codec::F32) });
        let text = q35_dialects::print::model(&m);
        assert!(text.contains("{dtype = f16, kv_heads = ") && text.contains(", f16>"), "{text}");
        assert_eq!(verify::verify(&m), Ok(()));
    }
}
