//! What a proof says of an image that the real Nix has built, and that a damaged one starts no machine.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::nix::{Nix, derivation};
use support::own_lane::OwnLane;
use support::{bootproof, expect_status, stderr_of, work_root};

/// Kernel and initramfs of a `tiny` image, for Nix to build another image of.
fn kernel_and_initramfs() -> [PathBuf; 2] {
    expect_status(&bootproof().args(["image", "build", "tiny"]).output().unwrap(), 0);
    let index = fs::read_dir(work_root().join("images/index")).unwrap();
    let records =
        index.map(|entry| serde_json::from_slice::<Value>(&fs::read(entry.unwrap().path()).unwrap()).unwrap());
    let whole = records
        .filter(|record| record["source"] == "tiny")
        .map(|record| ["kernel", "initramfs"].map(|part| PathBuf::from(record["boot"][part].as_str().unwrap())));
    whole.into_iter().find(|paths| paths.iter().all(|path| path.is_file())).expect("it was built")
}

fn environment(proof: &Path) -> Value {
    serde_json::from_slice(&fs::read(proof.join("environment.json")).unwrap()).unwrap()
}

#[test]
fn a_proof_tells_where_a_nix_image_comes_from_and_a_damaged_one_is_refused() {
    let Some(nix) = Nix::new() else { return };
    let [kernel, initramfs] = kernel_and_initramfs();
    let needed = derivation("needed", "echo x > $out");
    let (kernel, initramfs) = (kernel.display(), initramfs.display());
    let script =
        format!("mkdir $out; cp {kernel} $out/kernel; cp {initramfs} $out/initrd; echo ${{needed}} > $out/needed");
    let image = nix.build(&format!("let needed = {needed}; in {}", derivation("image", &script)));
    let lane = OwnLane::new(&format!(
        "[images.node]\nnix = \"{image}\"\n[machines.m]\nimage = \"node\"\n\
         [[steps]]\nname = \"up\"\nexpect = [\"boot\", \"agent.ready\"]\n"
    ));
    let run = || nix.surround(&mut lane.command(&["--images", "nix"])).output().unwrap();
    expect_status(&run(), 0);
    lane.sealed_result();
    let proof = lane.proof();
    let environment = environment(&proof);
    let (recorded, provenance) = (&environment["images"]["node"], &environment["images"]["node"]["provenance"]);
    let by_nix: Value = serde_json::from_str(&nix.ask(&["path-info", "--json", "--closure-size", &image])).unwrap();
    assert_eq!(recorded["store_path"], image.as_str());
    assert_eq!(provenance["store_path"], image.as_str());
    for (ours, theirs) in [
        ("nar_hash", "narHash"),
        ("nar_size", "narSize"),
        ("deriver", "deriver"),
        ("closure_size", "closureSize"),
        ("references", "references"),
    ] {
        assert_eq!(provenance[ours], by_nix[0][theirs], "{ours}");
        assert!(!provenance[ours].is_null(), "{ours}");
    }
    assert_eq!((&provenance["deriver_output"], &provenance["closure_paths"]), (&"out".into(), &2.into()));

    // The image is remembered by now; its damage is seen all the same.
    let damaged = Path::new(&image).join("needed");
    fs::set_permissions(&damaged, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&damaged, "something else\n").unwrap();
    fs::remove_dir_all(&proof).unwrap();
    let refused = run();
    expect_status(&refused, 4);
    let said = stderr_of(&refused);
    let database = by_nix[0]["narHash"].as_str().unwrap();
    for part in [&format!("`{image}` is damaged"), database, &format!("nix store repair {image}")] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    assert!(!said.contains("booting"), "no machine was started: {said}");

    // And so is a derivation that would not make it.
    fs::write(&damaged, format!("{}\n", by_nix[0]["references"][0].as_str().unwrap())).unwrap();
    fs::set_permissions(&damaged, fs::Permissions::from_mode(0o444)).unwrap();
    let deriver = by_nix[0]["deriver"].as_str().unwrap();
    let text = fs::read_to_string(deriver).unwrap();
    fs::set_permissions(deriver, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(deriver, text.replace(&image, &image.replace("-image", "-other"))).unwrap();
    let refused = run();
    expect_status(&refused, 4);
    assert!(stderr_of(&refused).contains("which is none of its outputs"), "{}", stderr_of(&refused));
}
