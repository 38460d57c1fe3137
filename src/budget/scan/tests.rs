use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use super::*;

fn filled(path: &Path, bytes: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![1u8; bytes]).unwrap();
}

/// Blocks of everything that is not a folder, without those of folders.
fn blocks(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().blocks() * 512
}

#[test]
fn it_agrees_with_du_however_many_threads_there_are() {
    let folder = tempfile::tempdir().unwrap();
    for one in 0..20 {
        for other in 0..30 {
            filled(&folder.path().join(format!("{one}/{}/{other}", other % 3)), one * 700 + other);
        }
        fs::hard_link(folder.path().join(format!("{one}/0/0")), folder.path().join(format!("{one}/again"))).unwrap();
        symlink("0", folder.path().join(format!("{one}/link"))).unwrap();
    }
    let output = std::process::Command::new("du").args(["-s", "-B1"]).arg(folder.path()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let expected: u64 = said.split_whitespace().next().unwrap().parse().unwrap();
    let one = walk::walk(folder.path(), 2, 1).unwrap();
    assert_eq!(one.total().bytes, expected);
    assert_eq!((one.total().files, one.total().folders), (20 * 32, 1 + 20 + 60));
    for threads in [2, 4] {
        assert_eq!(walk::walk(folder.path(), 2, threads).unwrap(), one);
    }
    // However deep the figures go, the sum stays.
    for depth in [0, 1, 5] {
        assert_eq!(walk::walk(folder.path(), depth, 2).unwrap().total().bytes, expected);
    }
}

#[test]
fn holes_are_nothing_and_folders_have_their_own_figures() {
    let folder = tempfile::tempdir().unwrap();
    let sparse = folder.path().join("a/sparse");
    filled(&sparse, 10);
    File::options().write(true).open(&sparse).unwrap().set_len(1 << 40).unwrap();
    File::options().write(true).open(&sparse).unwrap().write_all_at(&[1; 4096], 1 << 39).unwrap();
    filled(&folder.path().join("a/b/c/d/deep"), 100_000);
    filled(&folder.path().join("ab"), 1);
    let scan = scan(folder.path(), 2).unwrap();
    let a = scan.below(Path::new("a"));
    assert!(a.bytes < 1 << 20, "{a:?}");
    assert_eq!((a.files, a.folders), (2, 4));
    assert!(scan.below(Path::new("a/b")).bytes >= 100_000);
    assert_eq!(scan.below(Path::new("a/b/c")), Usage::default(), "deeper than was asked for");
    assert_eq!(scan.total().files, 3);
    assert_eq!(scan.children(Path::new("")), [Path::new("a")]);
    assert_eq!(scan.children(Path::new("a")), [Path::new("a/b")]);
}

#[test]
fn a_file_with_two_names_counts_once_for_the_first_folder_that_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second, third] = ["a/file", "b/file", "b/again"].map(|name| folder.path().join(name));
    filled(&second, 1 << 20);
    fs::create_dir(folder.path().join("a")).unwrap();
    fs::hard_link(&second, &first).unwrap();
    filled(&folder.path().join("b/only"), 1 << 19);
    fs::hard_link(folder.path().join("b/only"), &third).unwrap();
    let scan = scan(folder.path(), 1).unwrap();
    let (a, b) = (scan.below(Path::new("a")), scan.below(Path::new("b")));
    assert_eq!(a.held_elsewhere, blocks(&first), "the other folder has it too");
    assert_eq!(b.held_elsewhere, 0, "both its names are there");
    assert_eq!(b.bytes, blocks(&third) + blocks(&folder.path().join("b")));
    assert_eq!((a.files, b.files), (1, 3));
    assert!(a.freed() < 1 << 20 && b.freed() == b.bytes);
    // A name outside the tree is elsewhere as well.
    fs::hard_link(&third, folder.path().join("outside")).unwrap();
    let b = super::scan(&folder.path().join("b"), 0).unwrap().total();
    assert_eq!(b.held_elsewhere, blocks(&second) + blocks(&third));
}

#[test]
fn links_are_not_followed_and_loops_end() {
    let folder = tempfile::tempdir().unwrap();
    filled(&folder.path().join("elsewhere/large"), 1 << 20);
    let tree = folder.path().join("tree");
    filled(&tree.join("file"), 1);
    symlink("../elsewhere", tree.join("out")).unwrap();
    symlink(".", tree.join("loop")).unwrap();
    symlink("nowhere", tree.join("dangling")).unwrap();
    let scan = scan(&tree, 1).unwrap();
    assert_eq!((scan.total().files, scan.total().folders), (4, 1));
    assert!(scan.total().bytes < 1 << 19 && scan.problems.is_empty());
    // As the root it is what was asked for.
    assert!(super::scan(&tree.join("out"), 1).unwrap().total().bytes >= 1 << 20);
    assert!(super::scan(&tree.join("dangling"), 1).is_err());
}

#[test]
fn a_tree_that_changes_meanwhile_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for number in 0..50 {
                    filled(&folder.path().join(format!("{}/{number}/file", number % 5)), 10);
                }
                for number in 0..5 {
                    fs::remove_dir_all(folder.path().join(number.to_string())).unwrap();
                }
            }
        });
        for _ in 0..200 {
            let scan = scan(folder.path(), 2).unwrap();
            assert_eq!(scan.problems, []);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn what_is_mounted_below_is_told_and_left_out() {
    // Every Linux has something mounted below this.
    let scan = scan(Path::new("/dev"), 0).unwrap();
    assert!(scan.problems.iter().any(|problem| problem.reason.contains("mounted")), "{:?}", scan.problems);
}
