//! The little of ELF that is needed: sections of a kernel module, program headers of a kernel and of the agent.
//!
//! Only 64-bit little-endian files are understood; every offset is checked, whatever the file says.

const PROGRAM_INTERPRETER: u32 = 3;
const PROGRAM_NOTE: u32 = 4;
/// The note that names a kernel's 32-bit entry for PVH: QEMU starts an uncompressed kernel by it.
const NOTE_PVH_ENTRY: u32 = 18;

/// A view of an ELF file's bytes.
pub(super) struct Elf<'a> {
    bytes: &'a [u8],
}

impl<'a> Elf<'a> {
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() >= 64 && bytes.starts_with(b"\x7fELF\x02\x01")).then_some(Self { bytes })
    }

    /// Whether the program asks for a dynamic loader.
    pub fn has_interpreter(&self) -> bool {
        self.program_headers().any(|(kind, _)| kind == PROGRAM_INTERPRETER)
    }

    /// Whether the kernel can be started by its PVH entry.
    pub fn has_pvh_entry(&self) -> bool {
        self.program_headers()
            .filter(|(kind, _)| *kind == PROGRAM_NOTE)
            .any(|(_, notes)| notes_of(notes).any(|(owner, kind)| owner == b"Xen\0" && kind == NOTE_PVH_ENTRY))
    }

    fn program_headers(&self) -> impl Iterator<Item = (u32, &'a [u8])> + '_ {
        let table = self.u64(32).unwrap_or(0);
        let size = u64::from(self.u16(54).unwrap_or(0));
        let count = u64::from(self.u16(56).unwrap_or(0));
        (0..count).filter_map(move |index| {
            let header = table.checked_add(index.checked_mul(size)?)?;
            let content = self.range(self.u64(header + 8)?, self.u64(header + 32)?).unwrap_or_default();
            Some((self.u32(header)?, content))
        })
    }

    /// A section's bytes by its name.
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        let table = self.u64(40)?;
        let size = u64::from(self.u16(58)?);
        let count = u64::from(self.u16(60)?);
        let header = |index: u64| table.checked_add(index.checked_mul(size)?);
        let content = |header: u64| self.range(self.u64(header + 24)?, self.u64(header + 32)?);
        let names = content(header(u64::from(self.u16(62)?))?)?;
        (0..count).filter_map(header).find_map(|header| {
            let start = usize::try_from(self.u32(header)?).ok()?;
            let found = names.get(start..)?.split(|byte| *byte == 0).next()?;
            if found == name.as_bytes() { content(header) } else { None }
        })
    }

    fn range(&self, offset: u64, length: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        self.bytes.get(start..end)
    }

    fn u16(&self, offset: u64) -> Option<u16> {
        Some(u16::from_le_bytes(self.range(offset, 2)?.try_into().ok()?))
    }

    fn u32(&self, offset: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.range(offset, 4)?.try_into().ok()?))
    }

    fn u64(&self, offset: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.range(offset, 8)?.try_into().ok()?))
    }
}

/// Owner and type of each note.
fn notes_of(mut notes: &[u8]) -> impl Iterator<Item = (&[u8], u32)> {
    std::iter::from_fn(move || {
        let word = |index: usize| Some(u32::from_le_bytes(notes.get(index * 4..index * 4 + 4)?.try_into().ok()?));
        let (owner, content, kind) = (word(0)? as usize, word(1)? as usize, word(2)?);
        let name = notes.get(12..12usize.checked_add(owner)?)?;
        let next = 12usize.checked_add(owner.next_multiple_of(4))?.checked_add(content.next_multiple_of(4))?;
        notes = notes.get(next..).unwrap_or_default();
        Some((name, kind))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_file_makes_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 64..400)) {
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            let elf = Elf::parse(&bytes).unwrap();
            let _ = (elf.has_interpreter(), elf.has_pvh_entry(), elf.section(".modinfo").map(<[u8]>::len));
        }
    }

    #[test]
    fn this_program_asks_for_a_loader_and_has_sections() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = Elf::parse(&bytes).unwrap();
        assert!(elf.section(".text").is_some_and(|text| !text.is_empty()));
        assert!(elf.section(".nowhere").is_none());
        assert!(!elf.has_pvh_entry());
    }
}
