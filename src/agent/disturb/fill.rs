//! Full file systems.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, fallocate, fstatvfs};
use rustix::io::Errno;

/// Takes all free room of the file system that the folder is in, says so, and holds it until it is ended. The file has
/// no name: whatever ends us gives the room back.
pub fn hold(folder: &str) -> Result<String, String> {
    let failed = |error: &dyn std::fmt::Display| format!("failed to fill `{folder}`: {error}");
    let flags = i32::try_from(OFlags::TMPFILE.bits()).map_err(|error| failed(&error))?;
    let mut file = File::options()
        .write(true)
        .custom_flags(flags)
        .mode(0o600)
        .open(Path::new(folder))
        .map_err(|error| failed(&error))?;
    let mut taken = 0u64;
    // From large pieces to small ones, so that nothing is left but crumbs.
    let mut piece = 1u64 << 30;
    while piece >= 4096 {
        match fallocate(&file, FallocateFlags::empty(), taken, piece) {
            Ok(()) => taken += piece,
            Err(Errno::NOSPC) => piece /= 2,
            Err(Errno::OPNOTSUPP) => {
                taken = write_full(&mut file).map_err(|error| failed(&error))?;
                break;
            }
            Err(error) => return Err(failed(&error)),
        }
    }
    let left = fstatvfs(&file).map(|facts| facts.f_bavail * facts.f_frsize).unwrap_or(0);
    super::hold(&format!("held {taken} left {left}\n"))
}

/// Where room cannot be reserved it is written.
fn write_full(file: &mut File) -> std::io::Result<u64> {
    let chunk = vec![0x5a; 1 << 20];
    let mut taken = 0;
    let mut size = chunk.len();
    while size >= 512 {
        match file.write(&chunk[..size]) {
            Ok(count) => taken += count as u64,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => size /= 2,
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}
