//! The program `narfs`; see [`narfs::cli`].

/// Heaps that glibc's allocator may make for threads to have each its own. What is freed in one
/// serves no other, so that with its 8 for each core a daemon that fetches holds more than twice
/// as much as it uses.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 4;

fn main() -> std::process::ExitCode {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number, and there are no other threads yet.
    unsafe {
        // Refused, it changes nothing.
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
    narfs::cli::run()
}
