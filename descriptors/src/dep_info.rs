//! The arguments of `rustc`, and the dependency files (`--emit=dep-info`) that it writes beside libraries.

use std::path::{Path, PathBuf};

/// The values of all `--extern` arguments.
pub fn externs(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        if argument == "--extern" {
            found.extend(arguments.next());
        } else if let Some(value) = argument.strip_prefix("--extern=") {
            found.push(value.to_owned());
        }
    }
    found
}

/// The path in a value `[options:]name=path`, if it is about the crate `name`.
pub fn library<'a>(value: &'a str, name: &str) -> Option<&'a Path> {
    let (left, path) = value.split_once('=')?;
    let given = left.rsplit_once(':').map_or(left, |(_options, name)| name);
    (given == name).then(|| Path::new(path))
}

/// The dependency file of a library: `libname-hash.rmeta` has `name-hash.d` in the same folder.
pub fn beside(library: &Path) -> Option<PathBuf> {
    let stem = library.file_stem()?.to_str()?;
    let name = stem.strip_prefix("lib").unwrap_or(stem);
    Some(library.with_file_name(format!("{name}.d")))
}

/// The root module among the sources of the first rule. `rustc` escapes spaces in paths as make wants them.
pub fn root_module(text: &str) -> Option<PathBuf> {
    let (_target, sources) = text.lines().next()?.split_once(": ")?;
    let mut paths = vec![String::new()];
    let mut characters = sources.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, characters.peek()) {
            ('\\', Some(' ')) => {
                characters.next();
                paths.last_mut()?.push(' ');
            }
            (' ', _) => paths.push(String::new()),
            _ => paths.last_mut()?.push(character),
        }
    }
    paths
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.file_name().is_some_and(|name| name == "lib.rs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Vec<String> {
        externs(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn externs_are_found_in_both_spellings() {
        let words = [
            "rustc",
            "--extern",
            "serde=/d/libserde-1.rmeta",
            "--extern=http=/d/libhttp-2.rlib",
            "-L",
            "/d",
        ];
        assert_eq!(
            arguments(&words),
            ["serde=/d/libserde-1.rmeta", "http=/d/libhttp-2.rlib"]
        );
        assert!(arguments(&["rust-analyzer-proc-macro-srv"]).is_empty());
    }

    #[test]
    fn a_library_is_found_by_its_exact_name() {
        let path = Some(Path::new("/d/libenvoy_types-1.rmeta"));
        let find = |value| library(value, "envoy_types");
        assert_eq!(find("envoy_types=/d/libenvoy_types-1.rmeta"), path);
        assert_eq!(
            find("priv,noprelude:envoy_types=/d/libenvoy_types-1.rmeta"),
            path
        );
        assert_eq!(find("my_envoy_types=/d/libmy_envoy_types-1.rmeta"), None);
        // A sysroot crate has no path.
        assert_eq!(find("envoy_types"), None);
    }

    #[test]
    fn the_dependency_file_has_the_hash_of_the_library() {
        let file = Path::new("/target/debug/deps/envoy_types-0f.d");
        for library in ["libenvoy_types-0f.rmeta", "libenvoy_types-0f.rlib"] {
            assert_eq!(beside(&file.with_file_name(library)).as_deref(), Some(file));
        }
    }

    #[test]
    fn the_root_module_is_found_among_the_sources() {
        let text = "/t/libx.rmeta: /v/envoy-types/src/util.rs /v/envoy-types/src/lib.rs /v/envoy-types/src/../README.md\n\n\
                    /t/x.d: /other/lib.rs\n";
        assert_eq!(
            root_module(text),
            Some(PathBuf::from("/v/envoy-types/src/lib.rs"))
        );
        assert_eq!(
            root_module("/t/x.rlib: /my\\ home/a.rs /my\\ home/lib.rs\n"),
            Some(PathBuf::from("/my home/lib.rs"))
        );
        assert_eq!(root_module("/t/x.rlib: /v/main.rs\n"), None);
        assert_eq!(root_module(""), None);
    }
}
