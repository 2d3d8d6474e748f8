//! The program `narfs`; see [`narfs::cli`].

/// Heaps that glibc's allocator may make for threads to have each its own. What is freed in one
/// serves no other, so that with its 8 for each core a daemon that fetches holds more than twice
/// as much as it uses. A copy of 1.2 GB of NARs peaks at 155 MB with one, 190 with two and 208 to
/// 248 with four, in the same time; small allocations, which threads make often, come from caches of
/// their own.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

fn main() -> std::process::ExitCode {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number, and there are no other threads yet.
    unsafe {
        // Refused, it changes nothing.
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
    #[cfg(target_arch = "x86_64")]
    if !(is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("pclmulqdq")) {
        // RocksDB's checksums are compiled for them.
        eprintln!("narfs: this processor has no SSE4.2 or no PCLMULQDQ, which narfs needs");
        return std::process::ExitCode::FAILURE;
    }
    narfs::cli::run()
}
