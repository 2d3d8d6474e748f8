//! Line tables, more than the program itself, are compressed: that halves them, and backtraces read them.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,--compress-debug-sections=zlib");
}
