//! The program object as files: CSL text, and what a host needs beside it.

mod kernel;
mod layout;

use q35_dialects::wse::Program;
use std::collections::BTreeMap;

/// The modules that every program shares, as they are.
const MODULES: [(&str, &str); 4] = [
    ("comm.csl", include_str!("../../csl/comm.csl")),
    ("gemv.csl", include_str!("../../csl/gemv.csl")),
    ("vector.csl", include_str!("../../csl/vector.csl")),
    ("attention.csl", include_str!("../../csl/attention.csl")),
];

/// The CSL files of a program, and the command that compiles them, by name.
pub fn files(program: &Program) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = MODULES.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    files.insert("layout.csl".to_owned(), layout::text(program));
    for kernel in &program.kernels {
        files.insert(format!("{}.csl", kernel.name), kernel::text(program, kernel));
    }
    files
}

/// `run.py`: the host's side, the same for every program; what differs is in `fabric.json`.
pub(crate) const HOST: &str = include_str!("../../csl/run.py");

/// `commands_wse3.sh`: how the SDK compiles and runs the program.
pub(crate) fn commands(program: &Program) -> String {
    format!(
        "#!/usr/bin/env bash\n\
         # Compiles the program with SDK 2.10 and runs it in the SDK's simulator. Not run by the compiler that printed it.\n\
         set -e\n\
         cslc --arch=wse3 layout.csl --fabric-dims={},{} --fabric-offsets=4,1 -o out --memcpy --channels 1\n\
         cs_python run.py --name out --tokens \"${{1:-1}}\"\n",
        program.width + 7,
        program.height() + 2
    )
}
