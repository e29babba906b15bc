//! Compiles every kernel of `../cuda` as C++, one object for each, and the runtime that schedules their threads.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let cuda = root.join("../cuda").canonicalize()?;
    for watched in [&cuda, &root.join("include"), &root.join("src")] {
        println!("cargo::rerun-if-changed={}", watched.display());
    }

    let mut sources = vec![root.join("src/planted.cu")];
    for entry in fs::read_dir(&cuda)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            sources.push(path);
        }
    }
    sources.sort();

    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").define("GRISTMILL_SHIM", None).include(root.join("include")).include(&cuda);
    // Kernels are compiled for what they compute, not for speed of the CPU; contracting a*b+c would hide where they need it.
    build
        .opt_level(1)
        .debug(false)
        .flag("-ffp-contract=off")
        .flag("-Wno-unknown-pragmas")
        .flag("-Wno-sign-compare")
        .warnings(true);
    // A linker takes an object of a static library only if something in it is asked for, so each has a function to ask for.
    let mut table = String::new();
    let mut calls = String::new();
    for source in &sources {
        let name = source.file_stem().and_then(|stem| stem.to_str()).ok_or("a kernel's file name is not text")?;
        let unit = out.join(format!("{name}.cpp"));
        let text = format!(
            "#include {:?}\nextern \"C\" void gristmill_shim_link_{name}() {{}}\n",
            source.display().to_string()
        );
        write_if_changed(&unit, &text)?;
        build.file(&unit);
        table.push_str(&format!("extern \"C\" void gristmill_shim_link_{name}();\n"));
        calls.push_str(&format!("  gristmill_shim_link_{name}();\n"));
    }
    let linked = out.join("linked.cpp");
    write_if_changed(&linked, &format!("{table}extern \"C\" void gristmill_shim_link() {{\n{calls}}}\n"))?;
    build.file(linked).file(root.join("src/runtime.cpp"));
    build.try_compile("gristmill_shim")?;
    Ok(())
}

fn write_if_changed(path: &std::path::Path, text: &str) -> Result<(), std::io::Error> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text)
}
