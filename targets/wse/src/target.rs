//! The target's passes, in order.

use crate::build::Filling;
use crate::emit;
use crate::map::{Held, LARGEST_BLOCK, Mapped, Wafer, map};
use crate::weights::Coding;
use crate::{placement, report};
use q35_bundle::{
    Array, CacheDtype, CacheLayer, Device, HostInput, MemoryPlan, Piece, WaferProgram, WaferRegion, WseDevice, row_stride,
};
use q35_diag::Result;
use q35_dialects::q35::Op;
use q35_dialects::wse::{Arena, LARGEST, Region};
use q35_dialects::{Activations, Ty};
use q35_format::{Codec, PackedSpec};
use q35_graph::{Observer, Pass, Stage};
use q35_target::{Arrangement, Capabilities, Figures, Label, Lowered, Request, Section, Target, WeightTensor, cannot};
use std::collections::BTreeMap;

const MAP: Pass = Pass {
    name: "wse-map",
    purpose: "Place ops on regions of processing elements, with a memory plan for each",
    from: Stage::Q35,
    to: Stage::Target,
};
const EMIT: Pass = Pass { name: "wse-emit", purpose: "Print the program as CSL", from: Stage::Target, to: Stage::Asm };
const LOAD: Pass = Pass {
    name: "wse-load",
    purpose: "Say which bytes of which tensor every memory holds",
    from: Stage::Asm,
    to: Stage::Bundle,
};

/// Where the program lies in a bundle.
const FOLDER: &str = "wse";

/// Files of a program by name.
type Texts = BTreeMap<String, String>;

/// The wafer-scale target.
#[derive(Clone, Copy, Debug)]
pub struct Wse {
    /// Most columns and rows of a program; a model that needs more takes several wafers.
    pub rectangle: [u64; 2],
    /// Most tokens of a block.
    pub block: u64,
}

impl Default for Wse {
    /// A WSE-3.
    fn default() -> Self {
        Self { rectangle: LARGEST, block: LARGEST_BLOCK }
    }
}

impl Target for Wse {
    fn name(&self) -> &'static str {
        "wse"
    }

    fn description(&self) -> &'static str {
        "CSL for a wafer of processing elements (WSE-3, SDK 2.10)"
    }

    fn label(&self) -> Label {
        Label::ModelOfTheChip
    }

    fn capabilities(&self) -> Capabilities {
        let ops = [
            "tokens",
            "positions",
            "embed",
            "rms_norm",
            "linear",
            "rotary",
            "rope",
            "append",
            "attention",
            "glu",
            "activate",
            "add",
            "mul",
            "route",
            "expert_linear",
            "combine",
            "select",
        ];
        Capabilities {
            ops: ops.to_vec(),
            codecs: vec![Codec::Split],
            default_codec: Codec::Split,
            activations: Activations::Float,
            kv_cache: vec![CacheDtype::F16],
            levels: vec!["wse3"],
            native: None,
            several_chips: false,
        }
    }

    fn passes(&self) -> Vec<Pass> {
        vec![MAP, EMIT, LOAD]
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        map(self, request).map(|_| ())
    }

    fn outlook(&self, request: &Request<'_>) -> Result<Vec<(&'static str, String)>> {
        map(self, request).map(|mapped| report::outlook(&mapped))
    }

    fn lower(&self, request: &Request<'_>, observer: &mut dyn Observer) -> Result<Lowered> {
        observer.before(&MAP);
        let mapped = map(self, request)?;
        observer.after(&MAP, &|| mapped.wafers.iter().map(|wafer| format!("{:#?}\n", wafer.program)).collect());

        observer.before(&EMIT);
        let texts: Vec<Texts> = mapped.wafers.iter().map(|wafer| emit::files(&wafer.program)).collect();
        observer.after(&EMIT, &|| texts.iter().flatten().map(|(name, text)| format!("// {name}\n{text}\n")).collect());

        observer.before(&LOAD);
        let lowered = self.bundle(request, &mapped, texts)?;
        observer.after(&LOAD, &|| String::from_utf8_lossy(&lowered.files[&format!("{FOLDER}/fabric.json")]).into_owned());
        Ok(lowered)
    }
}

impl Wse {
    fn bundle(&self, request: &Request<'_>, mapped: &Mapped, texts: Vec<Texts>) -> Result<Lowered> {
        let mut weights: BTreeMap<String, WeightTensor> = BTreeMap::new();
        for built in mapped.wafers.iter().flat_map(|wafer| &wafer.built) {
            weights.extend(built.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
        }
        let device = self.device(request, mapped, &texts, &mut weights)?;
        let json = serde_json::to_vec_pretty(&device).unwrap_or_else(|e| unreachable!("numbers and names are JSON: {e}"));
        let sides = [
            ("run.py", emit::HOST.to_owned()),
            ("report.md", report::text(mapped)),
            ("report.json", placement::report(mapped)),
            ("placement.svg", report::picture(mapped)),
            ("commands_wse3.sh", emit::commands(mapped.wafers.iter().map(|wafer| &wafer.program), &device)),
        ];
        let sides = sides.map(|(name, text)| (format!("{FOLDER}/{name}"), text.into_bytes()));
        let mut files: BTreeMap<String, Vec<u8>> = sides.into();
        files.insert(format!("{FOLDER}/fabric.json"), json);
        for (wafer, texts) in device.wafers.iter().zip(texts) {
            files.extend(texts.into_iter().map(|(name, text)| (format!("{}/{name}", wafer.folder), text.into_bytes())));
        }
        let figures = Figures::from([("placement", placement::figures(mapped))]);
        Ok(Lowered { device: Device::Wse(device), plan: plan(request), steps: Vec::new(), files, weights, figures })
    }

    fn device(
        &self,
        request: &Request<'_>,
        mapped: &Mapped,
        texts: &[Texts],
        weights: &mut BTreeMap<String, WeightTensor>,
    ) -> Result<WseDevice> {
        let graph = request.graph;
        let table = &mapped.embed.table;
        let at = || {
            graph
                .ids()
                .find(|id| matches!(graph.node(*id).op, Op::Embed(_)))
                .map_or(String::new(), |id| graph.node(id).name.clone())
        };
        let no = |reason: &str| cannot(self, &at(), reason);
        let packed = *request.params.get(table).ok_or_else(|| no("the table is not there"))?;
        if Coding::of(packed.codec, packed.group) != Ok(Coding::Byte) {
            return Err(no("the host reads tables of 8-bit integers only").into());
        }
        let spec = PackedSpec::new(packed.rows as usize, packed.cols as usize, packed.codec, packed.group)
            .map_err(|e| no(&e.to_string()))?;
        let sections = [
            (format!("{table}.rows"), Section::Codes, spec.row_bytes()),
            (format!("{table}.rows.scales"), Section::Scales, spec.scale().bytes()),
        ];
        let names = sections.map(|(name, section, bytes)| {
            weights
                .insert(name.clone(), WeightTensor { param: table.clone(), section, arrangement: Arrangement::plain(bytes) });
            name
        });
        let rotary = mapped.rotary.and_then(|id| match &graph.node(id).op {
            Op::Rotary(op) => Some(op.clone()),
            _ => None,
        });
        let inv_freq = rotary.as_ref().map(|op| {
            let name = op.inv_freq.as_str().to_owned();
            let arrangement = Arrangement::plain(4 * mapped.half as usize);
            weights.insert(name.clone(), WeightTensor { param: op.inv_freq.clone(), section: Section::Codes, arrangement });
            name
        });
        let wafers = mapped.wafers.iter().zip(texts).enumerate().map(|(number, (wafer, texts))| WaferProgram {
            folder: if mapped.wafers.len() == 1 { FOLDER.to_owned() } else { format!("{FOLDER}/wafer_{number}") },
            files: texts.keys().cloned().collect(),
            regions: wafer.program.regions.iter().zip(&wafer.held).map(|(at, held)| region(at, wafer, held)).collect(),
        });
        let wafers = wafers.collect();
        let [codes, scales] = names;
        Ok(WseDevice {
            wafers,
            width: mapped.width,
            input: HostInput {
                table: codes,
                scales,
                hidden: mapped.hidden,
                piece: mapped.piece,
                inv_freq,
                half: mapped.half,
                rotary_scale: rotary.map_or(1.0, |op| op.scale),
            },
            logits: mapped.wafers.last().and_then(|wafer| wafer.built.last()).map_or(0, |built| built.logits),
            context: request.context,
            tokens: mapped.tokens,
        })
    }
}

/// What a region's memories hold.
fn region(at: &Region, wafer: &Wafer, held: &Held) -> WaferRegion {
    let built = &wafer.built[held.built];
    let piece = |filling: &Filling| Piece { from: held.expert * filling.expert, ..filling.piece.clone() };
    let array = |(arena, fillings): (&Arena, &Vec<Filling>)| Array {
        symbol: arena.name().to_owned(),
        words: arena.words() * built.kernel.arenas[*arena as usize],
        pieces: fillings.iter().map(piece).collect(),
    };
    WaferRegion {
        top: at.top,
        height: at.height,
        arrays: built.fillings.iter().map(array).collect(),
        caches: built.caches.clone(),
    }
}

/// The cache as the runtime counts it, and a row of logits; nothing else lies with the host.
fn plan(request: &Request<'_>) -> MemoryPlan {
    let mut cache: BTreeMap<u32, CacheLayer> = BTreeMap::new();
    let mut vocab = 1;
    for id in request.graph.ids() {
        if let Some(Ty::Cache { layer, kv_heads, key_dim, value_dim, dtype }) = request.graph.node(id).results.first().copied()
        {
            cache.insert(layer, CacheLayer { kv_heads, key_dim, value_dim, window: None, dtype });
        }
    }
    if let Some((_, value)) = request.graph.outputs.first()
        && let Ty::Act { width, .. } = request.graph.ty(*value)
    {
        vocab = *width;
    }
    MemoryPlan {
        bytes_per_token: 0,
        bytes_per_logit_row: row_stride(vocab).unwrap_or(0),
        cache: cache.into_values().collect(),
        logits_offset_per_row: 0,
        chosen_offset_per_row: None,
    }
}
