//! Products with packed weights: tiles of matrices, where they come from, and products of one vector made and summed together.

use super::{Builder, Filling, Place};
use crate::segments::through_select;
use crate::weights::{Coding, planes, scales, singles};
use q35_bundle::Piece;
use q35_dialects::q35::Op;
use q35_dialects::wse::{Arena, Axis, Call, Matrix, Part};
use q35_dialects::{Packed, ParamName, Ty};
use q35_format::{Codec, Group, PackedSpec};
use q35_graph::NodeId;
use q35_target::Section;

/// Most outputs of one product: its scratch grows with them, and beyond this a longer vector operation is hardly faster per element.
const CHUNK: u64 = 256;

/// A linear layer, of one expert where there are several.
#[derive(Clone, Debug)]
struct Dense {
    weight: ParamName,
    bias: Option<ParamName>,
    experts: u64,
    packed: Packed,
}

impl Dense {
    fn outputs(&self) -> u64 {
        self.packed.rows / self.experts
    }
}

/// The tile of a product.
struct Tile {
    coding: Coding,
    matrix: Matrix,
    /// Elements that the outputs of a PE take: more than there are where whoever reads them wants whole blocks.
    len: u64,
    axis: Axis,
    share: u64,
}

impl Builder<'_> {
    fn dense(&self, id: NodeId) -> Option<Result<Dense, String>> {
        let graph = self.request.graph;
        let (weight, bias, experts) = match &graph.node(id).op {
            Op::Linear(op) => (&op.weight, &op.bias, 1),
            Op::ExpertLinear(op) => match graph.operand(id, 1).map(|routing| *graph.ty(routing)) {
                Some(Ty::Routing { experts, .. }) => (&op.weight, &op.bias, experts),
                _ => return None,
            },
            _ => return None,
        };
        let packed = self.param(weight);
        Some(packed.map(|packed| Dense { weight: weight.clone(), bias: bias.clone(), experts, packed }))
    }

    /// Outputs per PE of a product, elements that they take, along which axis they are cut, and how many rows share them.
    fn outputs(&self, id: NodeId, input: Axis, dense: &Dense) -> Result<(u64, u64, Axis, u64), String> {
        let (height, piece, outputs) = (self.grid.height, self.grid.piece, dense.outputs());
        let rows = |rows: u64, share: u64| Ok((rows, rows, Axis::Rows, share));
        match (input, self.heads.get(&id)) {
            (Axis::Everywhere, _) => Err("its input lies whole on every PE".to_owned()),
            (Axis::Rows, Some(_)) => Err("heads come from a vector that is cut by rows".to_owned()),
            // The tiles of an expert are whole: behind its last column stand those of the next one, and no zeros.
            (Axis::Rows, None) if dense.experts > 1 && outputs != piece * self.grid.width => {
                Err(format!("experts of {outputs} outputs do not spread over {} pieces of {piece}", self.grid.width))
            }
            (Axis::Rows, None) => Ok((piece, piece, Axis::Columns, 1)),
            (Axis::Columns, Some((dim, count))) if count.is_multiple_of(height) => rows(dim * count / height, 1),
            (Axis::Columns, Some((dim, count))) if height.is_multiple_of(*count) => rows(*dim, height / count),
            (Axis::Columns, Some((_, count))) => Err(format!("{count} heads do not spread over {height} rows")),
            // One number: every row makes it.
            (Axis::Columns, None) if outputs == 1 => Ok((1, 1, Axis::Everywhere, height)),
            (Axis::Columns, None) if dense.experts == 1 => rows(outputs.div_ceil(height).next_multiple_of(32), 1),
            // The tiles of an expert are whole: the next one's follow.
            (Axis::Columns, None) if height == 1 => Ok((outputs, outputs.next_multiple_of(32), Axis::Rows, 1)),
            (Axis::Columns, None) if outputs.is_multiple_of(32 * height) => rows(outputs / height, 1),
            (Axis::Columns, None) => Err(format!("experts of {outputs} outputs do not spread over {height} rows")),
        }
    }

    pub(super) fn linear(&mut self, id: NodeId) -> Result<(), String> {
        if let Some(place) = self.joined.remove(&id) {
            self.result(id, place);
            return Ok(());
        }
        let graph = self.request.graph;
        let x = self.operand(id, 0)?;
        let first = self.dense(id).ok_or_else(|| "it is no linear layer".to_owned())??;
        if first.packed.codec == Codec::F32 {
            return self.scores(id, x, &first);
        }
        let source = graph.operand(id, 0).map(|value| through_select(graph, value));
        // Products of one vector are summed together.
        let mut together = Vec::new();
        for other in &self.order[self.now..] {
            let same = graph.operand(*other, 0).map(|value| through_select(graph, value)) == source;
            if let Some(dense) = self.dense(*other).filter(|_| same) {
                together.push((*other, dense?));
            }
        }
        together.retain(|(_, dense)| dense.packed.codec != Codec::F32);
        let mut made = Vec::new();
        for (other, dense) in together {
            let tile = self.product(other, &dense, x)?;
            made.push((other, dense, tile));
        }
        let coding = made[0].2.coding;
        if made.iter().any(|(.., tile)| tile.coding != coding) {
            return Err("products of one vector have different codecs".to_owned());
        }
        let len: u64 = made.iter().map(|(.., tile)| tile.len).sum();
        let name = match (x.axis, made.len()) {
            (Axis::Rows, _) => "narrow",
            (_, 1) => "wide",
            (_, 2) => "pair",
            _ => "heads",
        };
        let logits = graph.outputs.first().map(|(_, value)| value.node) == Some(id);
        let whole = self.buffer(if logits { "result" } else { name }, len);
        self.call(Call::Load { x: x.part, split: coding == Coding::Split });
        let mut at = 0;
        let mut biases = Vec::new();
        for (node, dense, Tile { matrix, len, axis, share, .. }) in made {
            let place = Place { part: Part { buffer: whole.buffer, at, len }, axis, share };
            at += len;
            let step = matrix.rows.div_ceil(matrix.rows.div_ceil(CHUNK)).next_multiple_of(8);
            for first in (0..matrix.rows).step_by(step as usize) {
                let rows = step.min(matrix.rows - first);
                let y = Part { at: place.part.at + first, len: rows, ..place.part };
                let (weights, scales) = (matrix.weights + first, matrix.scales + first);
                self.call(Call::Product { y, matrix: Matrix { rows, weights, scales, ..matrix } });
                let largest = &mut self.built.kernel.largest;
                *largest = [largest[0].max(rows), largest[1].max(matrix.inputs)];
            }
            if let Some(bias) = &dense.bias {
                let made = Place { part: Part { len: matrix.rows, ..place.part }, ..place };
                biases.push((made.part, self.vector(bias, made, dense.experts)?));
            }
            if node == id {
                self.result(id, place);
            } else {
                self.joined.insert(node, place);
            }
            if logits {
                self.built.logits = matrix.rows;
            }
        }
        self.call(Call::Sum { y: whole, over: x.axis });
        for (y, vector) in biases {
            self.call(Call::Bias { y, vector });
        }
        Ok(())
    }

    /// The tile of a product and where it comes from.
    fn product(&mut self, id: NodeId, dense: &Dense, x: Place) -> Result<Tile, String> {
        let packed = dense.packed;
        let coding = Coding::of(packed.codec, packed.group)?;
        if x.share != 1 {
            return Err("its input is shared by rows".to_owned());
        }
        let (height, inputs) = (self.grid.height, x.part.len);
        if !inputs.is_multiple_of(coding.inputs()) {
            return Err(format!("a PE holds {inputs} inputs, and weights come in blocks of {}", coding.inputs()));
        }
        let (rows, len, axis, share) = self.outputs(id, x.axis, dense)?;
        let words = coding.words(inputs);
        let (cut, tile) = match x.axis {
            Axis::Rows => (height, [2 * words * rows * height, 2 * words * rows]),
            // Tiles of a block of outputs follow each other along the inputs.
            Axis::Columns | Axis::Everywhere => (self.grid.width, [2 * words * rows, 2 * words * rows * self.grid.width]),
        };
        let spec =
            PackedSpec::new(packed.rows as usize, packed.cols as usize, packed.codec, Group::Row).map_err(|e| e.to_string())?;
        let name = dense.weight.as_str();
        let codes =
            self.tensor(&format!("{name}.tiles"), &dense.weight, Section::Codes, planes(spec.row_bytes(), rows, words * cut));
        let factors = self.tensor(&format!("{name}.tiles.scales"), &dense.weight, Section::Scales, scales(&spec, rows));
        let filling = |tensor: String, [column, row]: [u64; 2], expert: u64| {
            Some(Filling { piece: Piece { tensor, from: 0, to: 0, words: 0, column, row, share }, expert })
        };
        let by_output = if axis == Axis::Columns { [2 * rows, 0] } else { [0, 2 * rows] };
        let outputs = dense.outputs();
        let weights = self.room(Arena::Weights, words * rows, filling(codes, tile, 2 * words * cut * outputs));
        let scales = self.room(Arena::Scales, rows, filling(factors, by_output, 2 * outputs));
        let matrix = Matrix { split: coding == Coding::Split, rows, stride: rows, inputs, weights, scales };
        Ok(Tile { coding, matrix, len, axis, share })
    }

    /// A product with weights that are not rounded: each row of PEs makes some of the outputs, and all get all of them.
    fn scores(&mut self, id: NodeId, x: Place, dense: &Dense) -> Result<(), String> {
        if x.axis != Axis::Columns || dense.experts != 1 {
            return Err("f32 weights meet vectors that are cut by columns only".to_owned());
        }
        let (inputs, packed) = (x.part.len, dense.packed);
        let rows = packed.rows.div_ceil(self.grid.height);
        let arrangement = singles(packed.cols, rows, inputs * self.grid.width);
        let tensor = self.tensor(&format!("{}.tiles", dense.weight), &dense.weight, Section::Codes, arrangement);
        let (column, row) = (4 * inputs * rows, 4 * inputs * rows * self.grid.width);
        let piece = Piece { tensor, from: 0, to: 0, words: 0, column, row, share: 1 };
        let weight = self.room(Arena::Vectors, inputs * rows, Some(Filling { piece, expert: 0 }));
        let part = self.buffer("scores", rows);
        let all = self.buffer("logits", rows * self.grid.height);
        self.call(Call::Scores { y: part, x: x.part, weight });
        self.call(Call::Sum { y: part, over: Axis::Columns });
        self.call(Call::Gather { y: all, x: part });
        let place = Place { part: Part { len: packed.rows, ..all }, axis: Axis::Everywhere, share: 1 };
        if let Some(bias) = &dense.bias {
            let vector = self.vector(bias, place, 1)?;
            self.call(Call::Bias { y: place.part, vector });
        }
        self.result(id, place);
        Ok(())
    }
}
