//! Every graph of the corpus: dense ones raise, others say what is missing.

use std::path::{Path, PathBuf};

fn corpus() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no corpus at {}", folder.display());
    None
}

#[test]
fn show() {
    let Some(folder) = corpus() else { return };
    let Ok(name) = std::env::var("MODEL") else { return };
    for name in name.split(',') {
        println!("=== {name}");
        let imported = q35_import::open(&folder.join(name).join("model.onnx")).unwrap();
        match q35_passes::raise::raise(&imported.graph, &Default::default()) {
            Ok(model) if std::env::var("FULL").is_ok() => println!("{}", q35_dialects::print::model(&model)),
            Ok(model) => {
                let mut ops = std::collections::BTreeMap::new();
                model.graph.ids().for_each(|id| *ops.entry(model.graph.node(id).op.name()).or_insert(0) += 1);
                println!("ok {ops:?}")
            }
            Err(errors) => println!("{errors}"),
        }
    }
}
