//! How text is cut into pieces before bytes merge: expressions by the names that `tokenizer.ggml.pre` gives them.
//!
//! The expressions are those of the tokenizers that the names stand for; a text is cut by each of them in turn. Names that stand for the same cut
//! share a row.

/// A way to cut text.
pub(super) struct Cut {
    names: &'static [&'static str],
    /// Expressions whose matches are pieces, in order.
    pub(super) patterns: &'static [&'static str],
    /// Whether a piece that is a token is taken whole, even if no merges lead to it.
    pub(super) whole_first: bool,
    /// Whether a text begins with the token for that, where the file does not say.
    pub(super) starts: bool,
}

/// GPT-2's words.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Each digit by itself.
const DIGITS: &str = r"\p{N}";
/// LLaMA 3's: endings in either case, runs of up to three digits, line ends with what is before them.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Qwen 2's: the same, digits one by one.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// o200k's: a capital begins a word.
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Tekken's: the same without endings, digits one by one.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// DeepSeek-V3's: digits, then Chinese and Japanese, then words.
const DEEPSEEK3: &[&str] = &[
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
];

const fn cut(names: &'static [&'static str], patterns: &'static [&'static str]) -> Cut {
    Cut { names, patterns, whole_first: false, starts: false }
}

const CUTS: &[Cut] = &[
    Cut { whole_first: true, starts: true, ..cut(&["llama-bpe", "llama3", "llama-v3", "falcon3"], &[LLAMA3]) },
    Cut { whole_first: true, starts: true, ..cut(&["tekken"], &[TEKKEN]) },
    cut(&["gpt-4o"], &[GPT4O]),
    cut(&["qwen2", "deepseek-r1-qwen", "stablelm2"], &[QWEN2]),
    cut(&["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], &[LLAMA3]),
    cut(&["deepseek-v3"], DEEPSEEK3),
    cut(&["gpt-2", "phi-2", "olmo", "mpt"], &[WORDS]),
    cut(&["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"], &[DIGITS, WORDS]),
];

impl Cut {
    /// The cut of that name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        CUTS.iter().find(|cut| cut.names.contains(&name))
    }

    /// All names.
    pub(super) fn names() -> String {
        CUTS.iter().flat_map(|cut| cut.names).copied().collect::<Vec<_>>().join(", ")
    }
}
