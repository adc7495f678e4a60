//! The host's side of a bundle: `commands_wse3.sh` and `run.py` as they are, with stand-ins for the SDK's compiler and runtime (`tests/sdk`). The
//! stand-in for the runtime is a client of [`serve`], behind which is the model of the fabric.

use q35_csl::{Layout, layout};
use q35_fabric::{Fabric, Settings};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

/// What the stand-in asks. Data follows a request, and an answer: 32-bit elements.
#[derive(serde::Deserialize)]
struct Request {
    op: String,
    #[serde(default)]
    symbol: String,
    #[serde(default)]
    bits: u32,
    #[serde(default)]
    x: usize,
    #[serde(default)]
    y: usize,
    #[serde(default)]
    width: usize,
    #[serde(default)]
    height: usize,
    #[serde(default)]
    count: usize,
    #[serde(default)]
    args: Vec<u16>,
    bytes: usize,
}

/// The fabric with the program of a folder.
fn load(folder: &Path) -> Fabric {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts: BTreeMap<String, String> = files
        .filter(|path| path.extension().is_some_and(|e| e == "csl"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(path).unwrap()))
        .collect();
    Fabric::new(Layout::build(&layout::parse(&texts).unwrap()).unwrap(), Settings::default()).unwrap()
}

/// Answers a request; an error is the host's mistake, or the program's.
fn answer(fabric: &mut Fabric, request: &Request, data: &[u8]) -> Result<Vec<u8>, String> {
    let export = |fabric: &Fabric| fabric.layout().exports.get(&request.symbol).cloned();
    let known = export(fabric).ok_or_else(|| format!("'{}' is not exported", request.symbol));
    let pes =
        || (0..request.height).flat_map(|row| (0..request.width).map(move |column| (request.x + column, request.y + row)));
    let text = |error: q35_fabric::Error| error.to_string();
    let mut out = Vec::new();
    match (request.op.as_str(), request.bits) {
        ("stop", _) => {}
        ("id", _) => known.map(|_| ())?,
        ("launch", _) => {
            fabric.launch(&request.symbol, &request.args).map_err(text)?;
        }
        ("h2d", _) if !known.clone()?.mutable => return Err(format!("'{}' is not mutable", request.symbol)),
        ("h2d", bits) => {
            for (pe, part) in pes().zip(data.chunks_exact(4 * request.count)) {
                let elements = part.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                if bits == 16 {
                    let words: Vec<u16> = elements.map(|x| x as u16).collect();
                    fabric.write_words(pe, &request.symbol, &words).map_err(text)?;
                } else {
                    let numbers: Vec<f32> = elements.map(f32::from_bits).collect();
                    fabric.write(pe, &request.symbol, &numbers).map_err(text)?;
                }
            }
        }
        ("d2h", 32) => {
            known?;
            for pe in pes() {
                let mut part = vec![0.0; request.count];
                fabric.read(pe, &request.symbol, &mut part).map_err(text)?;
                out.extend(part.iter().flat_map(|x| x.to_le_bytes()));
            }
        }
        (op, bits) => return Err(format!("'{op}' of {bits} bits")),
    }
    Ok(out)
}

/// Serves a client until it stops: it opens the program whose compiled form stands beside it.
fn serve(mut client: UnixStream, folder: &Path) -> std::io::Result<()> {
    let mut opened: Option<Fabric> = None;
    loop {
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let mut head = vec![0; u32::from_le_bytes(length) as usize];
        client.read_exact(&mut head)?;
        let request: Request = serde_json::from_slice(&head)?;
        let mut data = vec![0; request.bytes];
        client.read_exact(&mut data)?;
        let answered = match (request.op.as_str(), &mut opened) {
            ("open", _) => {
                opened = Some(load(&folder.join(Path::new(&request.symbol).parent().unwrap_or(Path::new("")))));
                Ok(Vec::new())
            }
            (_, Some(fabric)) => answer(fabric, &request, &data),
            (_, None) => Err("nothing is open".to_owned()),
        };
        let (error, data) = match answered {
            Ok(data) => (String::new(), data),
            Err(error) => (error, Vec::new()),
        };
        client.write_all(&(error.len() as u32).to_le_bytes())?;
        client.write_all(error.as_bytes())?;
        client.write_all(&data)?;
        if request.op == "stop" {
            return Ok(());
        }
    }
}

/// Runs `commands_wse3.sh` of a bundle. `None`, with a message, where there is no Python with numpy.
pub(crate) fn run(bundle: &Path, prompt: &[u32], new: usize) -> Option<Vec<u32>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = [here.join("tests/sdk"), here.join("../../target/tools/python")];
    let packages = std::env::join_paths(packages).unwrap();
    let numpy = Command::new("python3").args(["-c", "import numpy"]).env("PYTHONPATH", &packages).output();
    if !numpy.is_ok_and(|done| done.status.success()) {
        eprintln!("skipped: run.py needs python3 with numpy (scripts/numpy.sh)");
        return None;
    }
    let folder = bundle.join("wse");
    let socket = tempfile::tempdir().unwrap();
    let path = socket.path().join("fabric");
    let listener = UnixListener::bind(&path).unwrap();
    let program = folder.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let program = program.clone();
            std::thread::spawn(move || serve(client, &program));
        }
    });
    let search = std::env::var_os("PATH").unwrap_or_default();
    let search = std::env::join_paths([here.join("tests/sdk/bin")].into_iter().chain(std::env::split_paths(&search))).unwrap();
    let tokens: Vec<String> = prompt.iter().map(u32::to_string).collect();
    let done = Command::new("bash")
        .args(["commands_wse3.sh", &tokens.join(","), "--new", &new.to_string()])
        .current_dir(&folder)
        .env("PYTHONPATH", &packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PATH", search)
        .env("Q35_FABRIC", &path)
        .output()
        .unwrap();
    let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{out}\n{error}");
    let lines: Vec<&str> = out.lines().collect();
    let [.., tokens, "SUCCESS"] = lines[..] else { panic!("{out}") };
    Some(tokens.split(',').map(|token| token.parse().unwrap()).collect())
}
