//! The files that travel with a model: tokenizer, configuration, generation settings, chat template.

use std::path::{Path, PathBuf};

macro_rules! sidecars {
    ($($field:ident $file:literal $doc:literal)*) => {
        /// Paths of the files found beside a model.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Sidecars { $(#[doc = $doc] pub $field: Option<PathBuf>),* }

        impl Sidecars {
            /// Looks in the model's folder, then, if that folder is called `onnx`, in the one above it: repositories that hold a checkpoint
            /// and its export keep the export in such a subfolder.
            pub fn beside(folder: &Path) -> Self {
                let above = if folder.ends_with("onnx") { folder.parent() } else { None };
                let find = |file: &str| std::iter::once(folder).chain(above).map(|f| f.join(file)).find(|p| p.is_file());
                Self { $($field: find($file)),* }
            }
        }
    };
}

sidecars! {
    config "config.json" "The architecture's parameters."
    generation_config "generation_config.json" "Stop tokens and sampling defaults."
    tokenizer "tokenizer.json" "The tokenizer, complete."
    tokenizer_config "tokenizer_config.json" "Special tokens, and often the chat template."
    chat_template "chat_template.jinja" "The chat template as a file of its own."
    genai_config "genai_config.json" "What the genai builder wrote about its graph."
}

impl Sidecars {
    /// The files that go with the model wherever it goes, and their names there.
    pub fn travelling(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let files = [
            ("tokenizer.json", &self.tokenizer),
            ("tokenizer_config.json", &self.tokenizer_config),
            ("generation_config.json", &self.generation_config),
            ("chat_template.jinja", &self.chat_template),
        ];
        files.into_iter().filter_map(|(name, path)| Some((name, path.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_onnx_folder_inherits_from_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("onnx");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        std::fs::write(inner.join("config.json"), "{}").unwrap();
        let found = Sidecars::beside(&inner);
        assert_eq!(found.tokenizer, Some(dir.path().join("tokenizer.json")));
        assert_eq!(found.config, Some(inner.join("config.json")));
        assert_eq!(found.generation_config, None);
    }
}
