//! Models on several chips: the same logits, to the bit, as on one.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test may panic

mod support;

use q35_groq_check::check_system;
use q35_target::{Request, Target};
use q35_target_groq::Groq;
use q35_tsp::program::Program;
use q35_tsp::timing::Timing;
use q35_tsp_sim::{Latency, System, host};
use support::Toy;
use support::llama::{SMALL, Shape, compile_for, headers, llama, lower};

/// Bits of the logits of a few tokens.
fn decode(programs: &[Program], toy: &Toy, latency: Latency) -> Vec<u32> {
    let mut system = System::new(programs, Timing::tsp1()).unwrap();
    system.latency = latency;
    for (chip, program) in system.chips.iter_mut().zip(programs) {
        host::load(chip, &program.data, toy).unwrap();
    }
    let vocab = toy.values.get(&"head".into()).unwrap().shape().0;
    let mut bits = Vec::new();
    for (entry, token) in (0u32..).zip([3, 69, 0, 12]) {
        for (chip, program) in system.chips.iter_mut().zip(programs) {
            host::feed(chip, &program.data, toy, host::Step { token, position: entry, entry }).unwrap();
        }
        system.run().unwrap_or_else(|fault| panic!("{fault}"));
        let mut logits = vec![f32::NAN; vocab];
        for (chip, program) in system.chips.iter().zip(programs) {
            host::logits(chip, &program.data, &mut logits).unwrap();
        }
        assert!(logits.iter().all(|x| x.is_finite()));
        bits.extend(logits.iter().map(|x| x.to_bits()));
    }
    bits
}

fn same_bits(shape: Shape, counts: &[u32]) {
    let toy = llama(shape, 5);
    let expected = decode(&compile_for(&toy, 11, Some(1)), &toy, Latency::Shortest);
    for count in counts {
        let programs = compile_for(&toy, 11, Some(*count));
        assert_eq!(programs.len(), *count as usize);
        let found = check_system(&programs, &Timing::tsp1());
        assert!(found.is_empty(), "{count} chips: {} violations, first: {}", found.len(), found[0]);
        for latency in [Latency::Shortest, Latency::Longest, Latency::Varying(u64::from(*count))] {
            assert_eq!(decode(&programs, &toy, latency), expected, "{count} chips, {latency:?}");
        }
    }
}

#[test]
fn chips_give_the_logits_of_one_chip_to_the_bit() {
    same_bits(Shape { layers: 4, ..SMALL }, &[2, 3, 4, 5]);
}

#[test]
fn so_do_chips_with_experts_and_wide_streams() {
    same_bits(Shape { experts: Some((6, 2)), ..SMALL }, &[2]);
    same_bits(Shape { hidden: 1024, heads: 2, dim: 64, ffn: 128, ..SMALL }, &[2]);
}

/// A head of 1100 rows, which is three pieces: of two chips, one with a layer; and of three, beside two chips of layers.
#[test]
fn a_head_in_pieces_gives_the_same_logits() {
    let shape = Shape { layers: 2, vocab: 1100, ..SMALL };
    same_bits(shape, &[3, 4, 5]);
    let programs = compile_for(&llama(shape, 5), 11, Some(5));
    let rows = |program: &Program| program.data.outputs.iter().flat_map(|output| &output.lanes.0).map(|run| run.count).sum();
    let rows: Vec<u32> = programs.iter().map(rows).collect();
    assert_eq!(rows, [0, 0, 512, 512, 76]);
    // The stream goes on before a chip's own work: so all of them are done at about the same time.
    let ends: Vec<u64> = programs.iter().map(|program| program.data.start + u64::from(program.data.cycles)).collect();
    assert!(ends[3] - ends[2] < 1000, "{ends:?}");
}

/// More chips than a node has.
#[test]
fn a_pipeline_goes_on_in_the_next_node() {
    let toy = llama(Shape { layers: 9, ffn: 32, hidden: 32, heads: 2, ..SMALL }, 8);
    let expected = decode(&compile_for(&toy, 11, None), &toy, Latency::Shortest);
    let programs = compile_for(&toy, 11, Some(10));
    let found = check_system(&programs, &Timing::tsp1());
    assert!(found.is_empty(), "{} violations, first: {}", found.len(), found[0]);
    assert_eq!(decode(&programs, &toy, Latency::Varying(3)), expected);
}

#[test]
fn the_report_says_what_every_chip_and_link_does() {
    let toy = llama(Shape { layers: 4, ..SMALL }, 5);
    let lowered = lower(&toy, 11, Some(2));
    let programs = compile_for(&toy, 11, Some(2));
    let schedule = &lowered.figures["schedule"];
    let cycles = programs[1].data.start + u64::from(programs[1].data.cycles);
    assert_eq!((schedule["chips"].as_u64(), schedule["cycles_per_token"].as_u64()), (Some(2), Some(cycles)));
    let pipeline = &schedule["pipeline"];
    for (chip, program) in pipeline["chips"].as_array().unwrap().iter().zip(&programs) {
        assert_eq!(chip["start"].as_u64(), Some(program.data.start));
        assert_eq!(chip["cycles"].as_u64(), Some(program.data.cycles.into()));
    }
    // 64 columns are two vectors of words, of even and of odd columns.
    let link = &pipeline["links"][0];
    assert_eq!((link["vectors"].as_u64(), link["bytes"].as_u64(), link["to"].as_u64()), (Some(8), Some(2560), Some(1)));
    let slowest = programs.iter().map(|program| u64::from(program.data.cycles)).max().unwrap();
    assert_eq!(pipeline["cycles_between_tokens"].as_u64(), Some(slowest.next_multiple_of(252)));
    let report: serde_json::Value = serde_json::from_slice(&lowered.files["groq/report.json"]).unwrap();
    let last = report["nodes"].as_array().unwrap().last().unwrap()["last"].as_u64().unwrap();
    assert_eq!(last + 1, cycles, "nodes are on the common clock");
    // Two layers each: the halves differ by the head and the embedding only.
    let [first, second] = [0, 1].map(|chip| f64::from(programs[chip].data.cycles));
    assert!((first / second - 1.0).abs() < 0.2, "{first} and {second} cycles");
}

#[test]
fn what_does_not_go_is_said() {
    let refused = |toy: &Toy, context, chips| {
        let request = Request { chips, ..Request::new(&toy.graph, &toy.params, "", context) };
        Groq.check(&request).err().map(|errors| errors.to_string())
    };
    let small = headers(Shape { layers: 4, ..SMALL });
    assert_eq!(refused(&small, 11, Some(5)), None);
    assert_eq!(
        refused(&small, 11, Some(6)).unwrap(),
        "error[Q35-0303]: 6 chips are more than the model has parts: 4 layers and the head\n  at option '--chips'\n  \
         help: a layer is on one chip: use --chips 5 or less"
    );
    // Eight layers and a head, which three chips have no room for.
    let large = headers(Shape { layers: 8, hidden: 4096, heads: 32, kv_heads: 8, dim: 128, ffn: 4096, vocab: 20_000, ..SMALL });
    assert_eq!(refused(&large, 64, None), None, "there is room on as many chips as it takes");
    let text = refused(&large, 64, Some(3)).unwrap();
    assert_eq!(
        text,
        "error[Q35-0405]: the model does not fit on 3 chips: it needs 4\n  at option '--chips'\n  \
         help: use --chips 4, or a context shorter than 64 with --context"
    );
    let outlook = Groq.outlook(&Request::new(&large.graph, &large.params, "", 64)).unwrap();
    assert_eq!(outlook[0], ("chips", "4".to_owned()));
    assert!(outlook[1].1.contains("from shapes, with vector phases as "), "{}", outlook[1].1);
    // One layer alone is too much for a chip.
    let huge = headers(Shape { layers: 1, hidden: 16_384, heads: 128, kv_heads: 8, dim: 128, ffn: 53_248, ..SMALL });
    let text = refused(&huge, 64, Some(2)).unwrap();
    assert!(text.starts_with("error[Q35-0405]: the model takes ") && text.contains(" chips at least"), "{text}");
    assert!(text.contains("  at node '/rms_norm_"), "{text}");
}
