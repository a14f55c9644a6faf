//! Embeds the descriptor set of Envoy's API, which envoy-types ships beside its sources but does not export.
//!
//! Cargo hands a crate no path of its dependencies. The compiler gets one: `--extern envoy_types=<library>` on the command line
//! of `rustc`. Next to that library is its dependency file, which lists the sources from which it was built. So the descriptors
//! belong to exactly the envoy-types in use, from a registry, vendored or patched, and finding them needs neither the network nor
//! `cargo metadata`. The latter fails offline where only the sources of normal dependencies were downloaded.

mod dep_info;

use std::{
    env,
    path::{Path, PathBuf},
};

use proc_macro::{Literal, TokenStream};

/// The name under which the calling crate depends on envoy-types.
const LIBRARY: &str = "envoy_types";

/// The descriptor set, relative to the root module of envoy-types.
const DESCRIPTORS: &str = "generated/types.bin";

/// Expands to a `&'static [u8; N]`: the serialized `FileDescriptorSet` of the envoy-types on which the calling crate depends.
#[proc_macro]
pub fn envoy_descriptors(_: TokenStream) -> TokenStream {
    let expansion = match find(env::args()) {
        Ok(Some(path)) => call("include_bytes", &path.to_string_lossy()),
        // The macro server of an editor: it compiles nothing, so there is no library.
        Ok(None) => "&[]".to_owned(),
        Err(error) => call(
            "compile_error",
            &format!("cannot find the descriptors of envoy-types: {error}"),
        ),
    };
    expansion.parse().unwrap_or_default()
}

fn call(name: &str, argument: &str) -> String {
    format!("::core::{name}!({})", Literal::string(argument))
}

/// The file of the descriptors. `None` if the process links no crates at all and thus is not `rustc`.
fn find(arguments: impl Iterator<Item = String>) -> Result<Option<PathBuf>, String> {
    let externs = dep_info::externs(arguments);
    if externs.is_empty() {
        return Ok(None);
    }
    let library = externs
        .iter()
        .find_map(|value| dep_info::library(value, LIBRARY))
        .ok_or("the crate does not depend on envoy-types")?;
    let list = dep_info::beside(library)
        .ok_or_else(|| format!("{} is not the path of a library", library.display()))?;
    let text =
        std::fs::read_to_string(&list).map_err(|error| format!("{}: {error}", list.display()))?;
    let root = dep_info::root_module(&text)
        .ok_or_else(|| format!("{} names no lib.rs", list.display()))?;
    let path = root
        .parent()
        .unwrap_or_else(|| Path::new(""))
        .join(DESCRIPTORS);
    if path.is_file() {
        Ok(Some(path))
    } else {
        Err(format!("{} is not a file", path.display()))
    }
}
