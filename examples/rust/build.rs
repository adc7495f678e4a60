//! Compiles the small model and links it; `Q35C` names the compiler if it is not on the `PATH`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bundle = q35_build::compile("../tiny-llama/model.onnx", &["--codec", "w8"])?;
    q35_build::link(&bundle)?;
    println!("cargo::rustc-env=WEIGHTS={}", bundle.join("weights.safetensors").display());
    Ok(())
}
