//! Lanes that ship, run by the real program.

use std::path::PathBuf;

use super::{OwnWorkRoot, expect_status, result_of, stderr_of};

/// Runs a lane, with arguments; gives its proof, which verifies and gives the same reports again.
pub fn passes(work: &OwnWorkRoot, arguments: &[&str]) -> PathBuf {
    passes_with(work, arguments, &[])
}

/// With these in the environment.
pub fn passes_with(work: &OwnWorkRoot, arguments: &[&str], environment: &[(&str, &str)]) -> PathBuf {
    let output = work.bootproof().arg("run").args(arguments).envs(environment.iter().copied()).output().unwrap();
    expect_status(&output, 0);
    let proof = work.proof();
    assert_eq!(result_of(&proof)["verdict"], "passed");
    for check in ["verify", "replay"] {
        expect_status(&work.bootproof().args(["proof", check, "latest"]).output().unwrap(), 0);
    }
    assert!(work.qemus().is_empty(), "no machine outlives its run");
    proof
}

/// The lane fails with the planted bug, or with each, and at the gate named.
pub fn reproduces(work: &OwnWorkRoot, lane: &str, control: &str) {
    let output = work.bootproof().args(["run", lane, "--control", control]).output().unwrap();
    expect_status(&output, 0);
    let said = stderr_of(&output);
    assert!(said.contains("reproduced"), "{said}");
    assert!(!said.contains(&format!("passed {lane}")), "{said}");
}
