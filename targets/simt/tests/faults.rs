//! Small kernels, right and wrong: what they compute, and what is said of them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use q35_simt::{Arg, Fault, Kind, Launch, Machine};

const DECLARATIONS: &str = "
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x() #1
@\"shared_$_0\" = internal addrspace(3) global [256 x i8] undef, align 16
@\"table_$_0\" = private unnamed_addr addrspace(1) constant [8 x i8] c\"\\01\\00\\00\\00\\FF\\FF\\FF\\FF\", align 4
";

/// A kernel over `(x, y, n)` whose body stands after its own thread's places `%from` and `%to` are known.
fn kernel(body: &str) -> String {
    format!(
        "{DECLARATIONS}
define ptx_kernel void @k(ptr addrspace(1) noundef readonly captures(none) %0, ptr addrspace(1) writeonly %1, i64 %2) local_unnamed_addr #0 {{
  %t = tail call range(i32 0, 1024) i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %wide = zext nneg i32 %t to i64
  %offset = shl nuw nsw i64 %wide, 2
  %from = getelementptr i8, ptr addrspace(1) %0, i64 %offset
  %to = getelementptr i8, ptr addrspace(1) %1, i64 %offset
  %own = getelementptr i8, ptr addrspace(3) @\"shared_$_0\", i64 %offset
{body}
}}
attributes #0 = {{ nounwind }}
"
    )
}

/// Runs a body on 40 threads over x = 0, 1, ..., 39 and gives y.
fn run(body: &str, lanes: u32) -> Result<Vec<i32>, Fault> {
    let mut machine = Machine::new(&kernel(body), lanes).unwrap();
    machine.limit(10_000);
    let x = machine.constant((0..40).flat_map(i32::to_le_bytes).collect());
    let y = machine.allocate(160);
    let args = [Arg::Address(x, 0), Arg::Address(y, 0), Arg::Number(7)];
    machine.launch(&Launch { kernel: "k", blocks: 1, threads: 40, args: &args })?;
    Ok(machine.bytes(y).chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

#[track_caller]
fn fault(body: &str, kind: Kind, part: &str) {
    for lanes in [32, 64] {
        let fault = run(body, lanes).unwrap_err();
        assert!(fault.kind == kind && fault.to_string().contains(part), "{fault}");
    }
}

const TURN: &str = "
  %v = load i32, ptr addrspace(1) %from, align 4
  store i32 %v, ptr addrspace(3) %own, align 4
  tail call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)
  %other = sub nsw i64 156, %offset
  %place = getelementptr i8, ptr addrspace(3) @\"shared_$_0\", i64 %other
  %w = load i32, ptr addrspace(3) %place, align 4
  store i32 %w, ptr addrspace(1) %to, align 4
  ret void";

#[test]
fn shared_memory_and_a_barrier_turn_an_array_around() {
    for lanes in [1, 32, 64] {
        assert_eq!(run(TURN, lanes).unwrap(), (0..40).rev().collect::<Vec<_>>(), "{lanes} lanes");
    }
}

#[test]
fn what_a_gpu_would_not_report() {
    let barrier = "  tail call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)\n";
    // Whether the writer comes first depends on who is in its warp; it may not matter.
    for (lanes, kind) in [(32, Kind::Uninitialised), (64, Kind::Race)] {
        let fault = run(&TURN.replace(barrier, ""), lanes).unwrap_err();
        assert!(fault.kind == kind && fault.place.contains("thread 0: %w = load"), "{fault}");
    }
    fault(&TURN.replace("i64 156", "i64 160"), Kind::Uninitialised, "thread 0");
    fault(&TURN.replace("%from, align 4", "%from, align 8"), Kind::Misaligned, "thread 1: %v = load");
    fault(&TURN.replace("%to, align 4", "%from, align 4"), Kind::ReadOnly, "a write");
}

#[test]
fn a_barrier_of_amd_orders_memory_between_fences() {
    let fence = |order: &str| format!("  fence syncscope(\"workgroup\") {order}\n");
    let barrier = format!("{}  tail call void @llvm.amdgcn.s.barrier()\n{}", fence("release"), fence("acquire"));
    let turn = TURN.replace("  tail call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)\n", &barrier);
    assert_eq!(run(&turn, 64).unwrap(), (0..40).rev().collect::<Vec<_>>());
    for order in ["release", "acquire"] {
        let error = Machine::new(&kernel(&turn.replace(&fence(order), "")), 64).err().unwrap();
        assert!(error.contains("a barrier that is not between a release and an acquire"), "{error}");
    }
}

#[test]
fn two_threads_at_one_byte() {
    let body = "
  %half = lshr i64 %wide, 1
  %place = shl i64 %half, 2
  %same = getelementptr i8, ptr addrspace(1) %1, i64 %place
  store i32 1, ptr addrspace(1) %same, align 4
  ret void";
    fault(body, Kind::Race, "thread 1: store");
}

#[test]
fn addresses_outside() {
    fault("  %v = load i32, ptr addrspace(1) null, align 4\n  ret void", Kind::OutOfBounds, "no buffer");
    let past = "
  %far = getelementptr i8, ptr addrspace(1) %from, i64 4
  %v = load i32, ptr addrspace(1) %far, align 4
  ret void";
    fault(past, Kind::OutOfBounds, "thread 39");
}

#[test]
fn lanes_that_never_come() {
    let body = "
  %few = icmp ult i32 %t, 5
  br i1 %few, label %then, label %end

then:
  tail call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)
  br label %end2

end2:
  ret void

end:
  %z = tail call i32 @llvm.nvvm.shfl.sync.bfly.i32(i32 -1, i32 %t, i32 1, i32 31)
  br label %end2";
    fault(body, Kind::Divergence, "wait");
    let ended = body.replace("  %z = tail call i32 @llvm.nvvm.shfl.sync.bfly.i32(i32 -1, i32 %t, i32 1, i32 31)\n", "");
    // With 32 lanes the second warp ends while the first waits; with 64 the first lanes wait alone.
    assert_eq!(run(&ended, 32).unwrap_err().kind, Kind::Divergence);
}

#[test]
fn loops_end_or_are_ended() {
    fault("  br label %l\n\nl:\n  br label %l", Kind::Endless, "more steps");
    // Every lane counts to its own number; those that are done wait for the others.
    let sum = "
  br label %loop

loop:
  %i = phi i32 [ 0, %3 ], [ %next, %loop ]
  %s = phi i32 [ 0, %3 ], [ %more, %loop ]
  %more = add i32 %s, %i
  %next = add i32 %i, 1
  %on = icmp ule i32 %next, %t
  br i1 %on, label %loop, label %done

done:
  %all = tail call i32 @llvm.nvvm.shfl.sync.idx.i32(i32 -1, i32 %more, i32 0, i32 31)
  %r = add i32 %all, %more
  store i32 %r, ptr addrspace(1) %to, align 4
  ret void";
    assert_eq!(run(sum, 32).unwrap()[..32], (0..32).map(|t| t * (t + 1) / 2).collect::<Vec<_>>());
}

#[test]
fn tables_switches_and_vectors() {
    let body = "
  %odd = and i32 %t, 1
  %at = zext nneg i32 %odd to i64
  %entry = getelementptr inbounds i32, ptr addrspace(1) @\"table_$_0\", i64 %at
  %sign = load i32, ptr addrspace(1) %entry, align 4
  switch i32 %t, label %rest [
    i32 3, label %three
    i32 4, label %rest
  ]

three:
  br label %rest

rest:
  %k = phi i32 [ 1, %3 ], [ 1, %3 ], [ 100, %three ]
  %a = insertelement <2 x i32> poison, i32 %sign, i64 0
  %b = insertelement <2 x i32> %a, i32 %k, i64 1
  %c = mul <2 x i32> %b, splat (i32 2)
  %d = shufflevector <2 x i32> %c, <2 x i32> poison, <2 x i32> <i32 1, i32 0>
  %g = tail call i32 @llvm.vector.reduce.mul.v2i32(<2 x i32> %d)
  store i32 %g, ptr addrspace(1) %to, align 4
  ret void";
    let expected = (0..40).map(|t| 4 * if t % 2 == 1 { -1 } else { 1 } * if t == 3 { 100 } else { 1 });
    assert_eq!(run(body, 32).unwrap(), expected.collect::<Vec<i32>>());
}

#[test]
fn launches_that_do_not_fit_and_text_that_is_none() {
    let mut machine = Machine::new(&kernel(TURN), 32).unwrap();
    let mut launch =
        |kernel, args: &[Arg]| machine.launch(&Launch { kernel, blocks: 1, threads: 32, args }).unwrap_err().to_string();
    assert!(launch("j", &[]).contains("no such kernel"));
    assert!(launch("k", &[Arg::Number(1)]).contains("1 arguments for 3 parameters"));
    assert!(launch("k", &[Arg::Number(1); 3]).contains("Number(1) for a parameter of type Ptr(1)"));
    let refused = |body: &str| Machine::new(&kernel(body), 32).err().unwrap();
    assert!(refused("  %v = fence seq_cst\n  ret void").contains("'fence' is not known"));
    assert!(refused("  br label %nowhere").contains("no block 'nowhere'"));
    assert!(refused("  %v = call i32 @llvm.nvvm.ballot(i32 1)\n  ret void").contains("llvm.nvvm.ballot"));
}
