//! The table of targets.

use q35_diag::{Code, Diagnostic, Result};
use q35_target::Target;

/// Every target of this build, in the order of listings. Without LLVM there are those that need none.
pub fn all() -> Vec<Box<dyn Target>> {
    vec![
        #[cfg(feature = "mlir")]
        Box::new(q35_target_cpu::Cpu),
        #[cfg(feature = "mlir")]
        Box::new(q35_target_cuda::Cuda),
        #[cfg(feature = "mlir")]
        Box::new(q35_target_rocm::Rocm),
        Box::new(q35_target_groq::Groq),
        Box::new(q35_target_wse::Wse::default()),
    ]
}

/// The target of a name.
///
/// # Errors
/// [`Code::UnknownTarget`], naming those there are.
pub fn find(name: &str) -> Result<Box<dyn Target>> {
    all().into_iter().find(|target| target.name() == name).ok_or_else(|| unknown(name).into())
}

fn unknown(name: &str) -> Diagnostic {
    let known: Vec<&str> = all().iter().map(|target| target.name()).collect();
    let help = match known[..] {
        [] => "this q35c was built without LLVM and MLIR, and without them there are no targets".to_owned(),
        _ => format!("known targets: {}", known.join(", ")),
    };
    Diagnostic::error(Code::UnknownTarget, format!("target '{name}' is not known")).at("option", "--target").help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_an_unknown_one_is_told() {
        let mut names: Vec<_> = all().iter().map(|t| t.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
        assert!(names.into_iter().all(|name| find(name).is_ok()));
        let text = find("abacus").err().unwrap().to_string();
        assert!(text.starts_with("error[Q35-0401]: target 'abacus' is not known\n  at option '--target'\n  help: "), "{text}");
    }
}
