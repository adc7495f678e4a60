//! Sessions on a toy bundle against the plain evaluation of one sequence at a time.

#![allow(clippy::unwrap_used)]

mod toy;

use q35_bundle::{Binding, CachePart, Manifest};
use q35_runtime::device::CacheSpan;
use q35_runtime::{Chunk, Options, Session, Want};

fn session(slots: usize, capacity: usize, max_tokens: usize, threads: usize) -> (tempfile::TempDir, Session) {
    let (dir, bundle) = toy::bundle();
    let options = Options { slots, capacity, max_tokens, threads: Some(threads), ..Options::default() };
    (dir, Session::new(bundle, &options).unwrap())
}

fn chunk(slot: usize, tokens: &[u32], want: Want) -> Chunk<'_> {
    Chunk { slot, tokens, positions: None, want }
}

fn rows(session: &mut Session, chunks: &[Chunk<'_>]) -> Vec<Vec<f32>> {
    session.step(chunks).unwrap().rows().map(<[f32]>::to_vec).collect()
}

const PROMPT: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 5];

#[test]
fn a_prompt_at_once_in_pieces_and_token_by_token_is_the_same() {
    let expected = toy::logits(&PROMPT);
    for (max_tokens, threads) in [(256, 1), (4, 2), (1, 3)] {
        let (_dir, mut session) = session(1, 16, max_tokens, threads);
        assert_eq!(rows(&mut session, &[chunk(0, &PROMPT, Want::All)]), expected);
        session.truncate(0, 0);
        assert_eq!(rows(&mut session, &[chunk(0, &PROMPT, Want::Last)]), expected[8..]);
        session.truncate(0, 0);
        assert!(rows(&mut session, &[chunk(0, &PROMPT[..5], Want::Nothing)]).is_empty());
        for n in 5..9 {
            assert_eq!(rows(&mut session, &[chunk(0, &PROMPT[n..=n], Want::Last)]), expected[n..=n]);
        }
        session.truncate(0, 3);
        assert_eq!(rows(&mut session, &[chunk(0, &PROMPT[3..], Want::All)]), expected[3..]);
    }
}

#[test]
fn a_ragged_batch_equals_separate_sequences() {
    let sequences: [&[u32]; 4] = [&[3, 1, 4, 1, 5], &[9], &[2, 6, 5], &[8, 9, 7, 9, 3, 2, 3]];
    for max_tokens in [3, 256] {
        let (_dir, mut session) = session(4, 8, max_tokens, 3);
        let chunks: Vec<_> = [2, 0, 3, 1].map(|slot| chunk(slot, &sequences[slot][..1], Want::All)).into();
        let first = rows(&mut session, &chunks);
        let rest: Vec<_> = (0..4).map(|slot| chunk(slot, &sequences[slot][1..], Want::All)).collect();
        let second = rows(&mut session, &rest);
        for (place, slot) in [2, 0, 3, 1].into_iter().enumerate() {
            assert_eq!(first[place], toy::logits(sequences[slot])[0]);
        }
        let expected: Vec<_> = sequences.iter().flat_map(|s| toy::logits(s).split_off(1)).collect();
        assert_eq!(second, expected);
        assert_eq!((0..4).map(|s| session.length(s)).collect::<Vec<_>>(), [5, 1, 3, 7]);
    }
}

#[test]
fn a_cache_moves_from_one_slot_to_another() {
    let (_dir, mut session) = session(2, 12, 256, 2);
    session.step(&[chunk(0, &PROMPT[..5], Want::Nothing)]).unwrap();
    let span = |part| CacheSpan { layer: 0, part, slot: 0, first: 0, count: 5 };
    let (keys, values) =
        (session.read_cache(span(CachePart::Key)).unwrap(), session.read_cache(span(CachePart::Value)).unwrap());
    session.fill(1, 5, |_, part| if part == CachePart::Key { keys.clone() } else { values.clone() }).unwrap();
    assert_eq!(rows(&mut session, &[chunk(1, &PROMPT[5..], Want::All)]), toy::logits(&PROMPT)[5..]);
}

#[test]
fn positions_are_the_callers_when_given() {
    let (_dir, mut session) = session(1, 12, 256, 1);
    let positions = [7, 8, 3];
    let found = session.step(&[Chunk { positions: Some(&positions), ..chunk(0, &PROMPT[..3], Want::All) }]).unwrap();
    assert_eq!(found.rows().map(<[f32]>::to_vec).collect::<Vec<_>>(), toy::reference(&mut vec![], &PROMPT[..3], &positions));
}

#[test]
fn what_does_not_fit_is_said_and_nothing_happens() {
    let (_dir, mut session) = session(2, 8, 256, 1);
    session.step(&[chunk(0, &[1, 2, 3, 4, 5], Want::Nothing)]).unwrap();
    let errors = session.step(&[chunk(0, &[1, 10, 2, 3], Want::Last), chunk(1, &[4_000_000_000], Want::Last)]).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "error[Q35-0602]: slot 0 holds 5 tokens, and 4 more exceed its capacity of 8\n  help: shorten the prompt or ask for fewer tokens\n\
         error[Q35-0601]: token 10 is outside the vocabulary of 10\nerror[Q35-0601]: token 4000000000 is outside the vocabulary of 10"
    );
    assert_eq!((session.length(0), session.length(1)), (5, 0));
}

fn refusal(manifest: Manifest, options: Options) -> String {
    let (_dir, bundle) = toy::bundle_of(manifest);
    Session::new(bundle, &options).err().expect("must be refused").to_string()
}

#[test]
fn machines_that_cannot_run_it() {
    let level = |level: &str| Options { level: Some(level.into()), ..Options::default() };
    assert_eq!(
        refusal(toy::manifest(), level("mind")),
        "error[Q35-0504]: feature level 'mind' needs telepathy, which this CPU lacks"
    );
    assert_eq!(
        refusal(toy::manifest(), level("sse")),
        "error[Q35-0504]: the bundle has no feature level 'sse'\n  help: it has: mind, base"
    );
    let device = Options { device: Some("cuda".into()), ..Options::default() };
    assert_eq!(
        refusal(toy::manifest(), device),
        "error[Q35-0505]: the bundle was compiled for device 'cpu', not for 'cuda'\n  help: compile it with --target cuda"
    );
    let mut other = toy::manifest();
    let q35_bundle::Device::Cpu(device) = &mut other.device else { panic!("the toy is for a CPU") };
    device.arch = "pdp11".into();
    let text = format!("error[Q35-0504]: the bundle was compiled for pdp11, and this machine is {}", std::env::consts::ARCH);
    assert_eq!(refusal(other, Options::default()), text);
}

#[test]
fn limits_that_cannot_be_kept_are_refused() {
    let limited = |max_memory| Options { max_memory: Some(max_memory), ..Options::default() };
    let text = refusal(toy::manifest(), limited(1 << 20));
    assert!(
        text.starts_with("error[Q35-0305]: the program, its cache and its working memory take ")
            && text.contains(", and streaming weights needs 3.00 MiB more; --max-memory allows 1.00 MiB\n  at option '--max-memory'\n  help: allow "),
        "{text}"
    );
    let mut card = toy::manifest();
    let threads = card.steps.iter().flat_map(|step| &step.variants).map(|variant| (variant.kernel.clone(), 32)).collect();
    card.device = q35_bundle::Device::Cuda(q35_bundle::CudaDevice { prefix: "toy_".into(), levels: vec![], threads });
    assert_eq!(
        refusal(card, limited(1 << 40)),
        "error[Q35-0305]: the bundle is for device 'cuda', which cannot stream its weights\n  at option '--max-memory'\n  help: leave the option out"
    );
}

#[test]
fn a_limit_that_is_wide_enough_changes_nothing() {
    let (_dir, bundle) = toy::bundle();
    let options = Options { capacity: 16, max_memory: Some(1 << 40), ..Options::default() };
    let mut session = Session::new(bundle, &options).unwrap();
    assert_eq!(rows(&mut session, &[chunk(0, &PROMPT, Want::All)]), toy::logits(&PROMPT));
    assert!(!session.describe().contains("streamed"), "{}", session.describe());
}

#[test]
fn missing_kernels_are_all_named() {
    let mut manifest = toy::manifest();
    manifest.steps[0].variants[0].kernel = "embody".into();
    manifest.steps[3].variants[1].kernel = "foot".into();
    assert_eq!(
        refusal(manifest, Options::default()),
        "error[Q35-0501]: the shared object lacks the kernel 'toy_embody__base'\n  at file 'cpu/model.so'\n\
         error[Q35-0501]: the shared object lacks the kernel 'toy_foot__base'\n  at file 'cpu/model.so'"
    );
}

#[test]
fn absurd_caches_are_refused_before_anything_is_allocated() {
    let options = Options { slots: 1 << 40, ..Options::default() };
    let text = "error[Q35-0108]: a cache of 1099511627776 slots of 1024 tokens, and steps of 256 tokens, exceed any memory\n  \
                help: ask for a shorter context or fewer slots";
    assert_eq!(refusal(toy::manifest(), options), text);
}

#[test]
fn results_do_not_depend_on_threads_even_when_cores_are_scarce() {
    let tokens: Vec<u32> = (0..200).map(|i| i * 7 % 10).collect();
    let expected = toy::logits(&tokens);
    let crowd: Vec<_> = (0..3)
        .map(|_| {
            let (tokens, expected) = (tokens.clone(), expected.clone());
            std::thread::spawn(move || {
                let (_dir, mut session) = session(1, 256, 64, 16);
                for _ in 0..5 {
                    session.truncate(0, 0);
                    assert_eq!(rows(&mut session, &[chunk(0, &tokens, Want::All)]), expected);
                }
            })
        })
        .collect();
    crowd.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn a_weight_that_is_absent_is_refused_on_opening() {
    let mut manifest = toy::manifest();
    manifest.steps[0].args[1] = Binding::Weight("chair".into());
    let dir = tempfile::tempdir().unwrap();
    let path = toy::write(&dir.path().join("toy.q35"), manifest, &[]);
    assert_eq!(
        q35_bundle::Bundle::open(&path).unwrap_err().to_string(),
        "error[Q35-0501]: the manifest contradicts itself: an argument does not exist: tensor 'chair'\n  at node 'toy.embed'"
    );
}
