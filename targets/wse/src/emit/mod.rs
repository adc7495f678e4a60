//! The program object as files: CSL text, and what a host needs beside it.

mod kernel;
mod layout;

use q35_bundle::WseDevice;
use q35_dialects::wse::{Kernel, Program};
use std::collections::BTreeMap;

/// The modules that programs share, as they are.
const MODULES: [(&str, &str); 8] = [
    ("chain.csl", include_str!("../../csl/chain.csl")),
    ("comm.csl", include_str!("../../csl/comm.csl")),
    ("gemv.csl", include_str!("../../csl/gemv.csl")),
    ("total.csl", include_str!("../../csl/total.csl")),
    ("vector.csl", include_str!("../../csl/vector.csl")),
    ("attention.csl", include_str!("../../csl/attention.csl")),
    ("route.csl", include_str!("../../csl/route.csl")),
    ("experts.csl", include_str!("../../csl/experts.csl")),
];

/// The CSL files of a program by name: its layout, its PE programs, and those of the shared modules that these import.
pub fn files(program: &Program) -> BTreeMap<String, String> {
    let mut files = BTreeMap::from([("layout.csl".to_owned(), layout::text(program))]);
    for kernel in &program.kernels {
        let text = kernel::text(program, kernel);
        imported(&text, &mut files);
        files.insert(format!("{}.csl", kernel.name), text);
    }
    files
}

/// Statements of each shared module, those of the modules that it imports included. The reader counts them too, and a test compares.
const STATEMENTS: [(&str, u64); 6] =
    [("comm", 104), ("gemv", 111), ("vector", 37), ("attention", 59), ("experts", 28), ("route", 47)];

/// Statements of a PE program with its modules.
pub(crate) fn statements(kernel: &Kernel) -> u64 {
    kernel::statements(kernel, |module| STATEMENTS.iter().find(|(name, _)| *name == module).map_or(0, |(_, count)| *count))
}

/// The shared modules that a text imports, and those that these import.
fn imported(text: &str, files: &mut BTreeMap<String, String>) {
    for (name, module) in MODULES.iter().filter(|(name, _)| text.contains(&format!("@import_module(\"{name}\""))) {
        files.insert((*name).to_owned(), (*module).to_owned());
        imported(module, files);
    }
}

/// `run.py`: the host's side, the same for every program; what differs is in `fabric.json`.
pub(crate) const HOST: &str = include_str!("../../csl/run.py");

/// `commands_wse3.sh`: how the SDK compiles and runs the programs. Each wafer's program becomes a folder beside its text.
pub(crate) fn commands<'a>(programs: impl Iterator<Item = &'a Program>, device: &WseDevice) -> String {
    let mut text = "#!/usr/bin/env bash\n\
         # Compiles with SDK 2.10 and runs in the SDK's simulator: commands_wse3.sh TOKENS [--new N].\n\
         # On a system, --fabric-dims is the system's fabric (762,1172 for a WSE-3), and run.py takes --cmaddr IP:PORT.\n\
         # Not run by the compiler that printed it.\n\
         set -euo pipefail\n\
         cd \"$(dirname \"$0\")\"\n\n"
        .to_owned();
    for (program, wafer) in programs.zip(&device.wafers) {
        let inner = wafer.folder.split_once('/').map_or("", |(_, inner)| inner);
        let prefix = if inner.is_empty() { String::new() } else { format!("{inner}/") };
        text += &format!(
            "cslc --arch=wse3 {prefix}layout.csl --fabric-dims={},{} --fabric-offsets=4,1 -o {prefix}out --memcpy --channels 1\n",
            program.width + 7,
            program.height() + 2
        );
    }
    text + "cs_python run.py --name out --tokens \"${1:-1}\" \"${@:2}\"\n"
}
