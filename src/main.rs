//! The program `narfs`; see [`narfs::cli`].

fn main() -> std::process::ExitCode {
    narfs::cli::run()
}
