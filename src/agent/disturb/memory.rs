//! Memory pressure.

const CHUNK: usize = 1 << 20;

/// Takes so many bytes, says so, and holds them until it is ended.
pub fn hold(bytes: u64) -> Result<String, String> {
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut left = usize::try_from(bytes).map_err(|_| "that is more than there can be".to_owned())?;
    let mut fill = 1u8;
    while left > 0 {
        let size = left.min(CHUNK);
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(size).map_err(|error| format!("failed to take more memory: {error}"))?;
        // Written, or the kernel would only have promised it; and not all alike, or it could be merged.
        chunk.resize(size, fill);
        fill = fill.wrapping_mul(7).wrapping_add(3) | 1;
        left -= size;
        held.push(chunk);
    }
    let told = super::hold("held\n");
    std::hint::black_box(&held);
    told
}
