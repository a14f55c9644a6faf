//! Observed paths, and the patterns of an AuthPolicy that match them.

use std::collections::{BTreeMap, BTreeSet};

/// The most names in one folder of paths; more of them are values, such as the names of products.
const MAX_NAMES: usize = 8;
/// The same at the root, which has the parts of an application.
const MAX_ROOT_NAMES: usize = 32;
/// The most patterns of a caller at a port. An `AuthPolicy` has at most 64 in a rule.
const MAX_PATTERNS: usize = 32;
/// The longest name of a segment, in bytes. Longer ones are values.
const MAX_NAME: usize = 64;
/// The most names in one path.
const MAX_DEPTH: usize = 32;

/// Methods of HTTP.
pub type Methods = BTreeSet<String>;

/// The paths of the requests of one caller, as a tree of their segments. The order in which they come makes no difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// Of requests for exactly this path.
    here: Methods,
    /// Of requests for any path below.
    below: Methods,
    /// Whether there are too many names for `children`.
    wide: bool,
    children: BTreeMap<String, Paths>,
}

impl Paths {
    /// Adds the path of a request, without its query.
    pub fn add(&mut self, path: &str, method: &str) {
        let mut node = self;
        let segments = path.strip_prefix('/').unwrap_or(path).split('/');
        for (depth, segment) in segments.enumerate() {
            if node.wide || is_value(segment) || depth == MAX_DEPTH {
                node.below.insert(method.to_owned());
                return;
            }
            let most = if depth == 0 {
                MAX_ROOT_NAMES
            } else {
                MAX_NAMES
            };
            if !node.children.contains_key(segment) && node.children.len() >= most {
                node.widen();
                node.below.insert(method.to_owned());
                return;
            }
            node = node.children.entry(segment.to_owned()).or_default();
        }
        node.here.insert(method.to_owned());
    }

    /// The patterns that match all paths, each with its methods: whole paths, and prefixes that end with `/*`.
    pub fn patterns(mut self) -> BTreeMap<String, Methods> {
        for depth in (0..=self.depth()).rev() {
            let patterns = self.listed();
            if patterns.len() <= MAX_PATTERNS {
                return patterns;
            }
            self.widen_at(depth);
        }
        self.listed()
    }

    fn listed(&self) -> BTreeMap<String, Methods> {
        let mut all = BTreeMap::new();
        self.list("", &Methods::new(), &mut all);
        all
    }

    /// Lists the patterns of a node and of those below it. A prefix above has these methods already.
    fn list(&self, path: &str, above: &Methods, all: &mut BTreeMap<String, Methods>) {
        let mut put = |pattern: String, methods: &Methods| {
            if !methods.is_subset(above) {
                all.insert(pattern, methods.clone());
            }
        };
        put(path.to_owned(), &self.here);
        put(format!("{path}/*"), &self.below);
        let above: Methods = above.union(&self.below).cloned().collect();
        for (segment, child) in &self.children {
            child.list(&format!("{path}/{segment}"), &above, all);
        }
    }

    fn depth(&self) -> usize {
        let below = self.children.values().map(|child| child.depth() + 1);
        below.max().unwrap_or_default()
    }

    fn widen_at(&mut self, depth: usize) {
        match depth {
            0 => self.widen(),
            _ => {
                for child in self.children.values_mut() {
                    child.widen_at(depth - 1);
                }
            }
        }
    }

    /// Takes all paths below for one prefix.
    fn widen(&mut self) {
        for child in std::mem::take(&mut self.children).into_values() {
            child.gather(&mut self.below);
        }
        self.wide = true;
    }

    fn gather(self, methods: &mut Methods) {
        methods.extend(self.here);
        methods.extend(self.below);
        for child in self.children.into_values() {
            child.gather(methods);
        }
    }
}

/// Whether a segment looks like a value and not like a name: a number, a UUID, a hash, a token, or a text with unusual characters.
fn is_value(segment: &str) -> bool {
    let count = |is: fn(&char) -> bool| segment.chars().filter(is).count();
    let (digits, length) = (count(char::is_ascii_digit), segment.len());
    let usual = |c: char| c.is_ascii_alphanumeric() || "._~-:+,=$!&'()".contains(c);
    let hexadecimal = segment.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    !segment.chars().all(usual)
        || segment == "."
        || segment == ".."
        || length > MAX_NAME
        || length > 0 && digits == length
        || length >= 8 && digits > 0 && hexadecimal
        || length >= 16 && digits >= 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(requests: &[(&str, &str)]) -> Vec<String> {
        let line = |(pattern, methods): (String, Methods)| {
            let methods: Vec<String> = methods.into_iter().collect();
            format!("{} {pattern}", methods.join(","))
        };
        let (mut forth, mut back) = (Paths::default(), Paths::default());
        for (method, path) in requests {
            forth.add(path, method);
        }
        for (method, path) in requests.iter().rev() {
            back.add(path, method);
        }
        let all = forth.patterns();
        assert_eq!(all, back.patterns(), "the order makes no difference");
        all.into_iter().map(line).collect()
    }

    #[test]
    fn names_stay_and_values_become_prefixes() {
        let all = [
            ("GET", "/"),
            ("GET", "/products"),
            ("GET", "/products/17"),
            ("GET", "/products/18/reviews"),
            ("DELETE", "/products/18"),
            ("GET", "/products/top"),
            ("PUT", "/products/top"),
            ("GET", "/orders/3f2a9c1e-77aa-4f0b-9f3e-2b1c0d9e8f7a/items"),
            ("POST", "/shop.v2.Cart/AddItem"),
            ("GET", "/static/app.js"),
            ("GET", "/static/"),
        ];
        let expected = [
            "GET /",
            "GET /orders/*",
            "GET /products",
            "DELETE,GET /products/*",
            "GET,PUT /products/top",
            "POST /shop.v2.Cart/AddItem",
            "GET /static/",
            "GET /static/app.js",
        ];
        assert_eq!(patterns(&all), expected);
    }

    #[test]
    fn deep_paths_become_prefixes() {
        let deep = "/a".repeat(100_000);
        let expected = format!("GET {}/*", "/a".repeat(MAX_DEPTH));
        assert_eq!(patterns(&[("GET", &deep)]), [expected]);
    }

    #[test]
    fn many_names_in_a_folder_are_values() {
        let names = ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr"];
        let paths: Vec<String> = names.map(|name| format!("/u/{name}/x")).to_vec();
        let of = |count: usize| {
            let all: Vec<(&str, &str)> =
                paths[..count].iter().map(|path| ("GET", &**path)).collect();
            patterns(&all)
        };
        assert_eq!(of(MAX_NAMES).len(), MAX_NAMES);
        assert_eq!(of(MAX_NAMES + 1), ["GET /u/*"]);
    }

    #[test]
    fn the_number_of_patterns_is_bounded() {
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let paths = names
            .iter()
            .flat_map(|one| names.map(|two| format!("/{one}/{two}/z")));
        let paths: Vec<String> = paths.collect();
        let all: Vec<(&str, &str)> = paths.iter().map(|path| ("GET", &**path)).collect();
        let expected = names.map(|name| format!("GET /{name}/*"));
        assert_eq!(patterns(&all), expected);
        let roots: Vec<String> = (0..=MAX_ROOT_NAMES).map(|of| format!("/r{of}")).collect();
        let all: Vec<(&str, &str)> = roots.iter().map(|path| ("GET", &**path)).collect();
        assert_eq!(patterns(&all), ["GET /*"]);
    }

    #[test]
    fn values_are_told_from_names() {
        for value in [
            "17",
            "2024",
            "deadbeef1",
            "3f2a9c1e-77aa-4f0b-9f3e-2b1c0d9e8f7a",
            "ord_1a2b3c4d5e6f",
            "my-post-2024-11-29",
            "a b",
            "a%20b",
            "..",
            ".",
            "*",
            "[redacted]",
            "cut…",
            "ä",
            "a;b",
        ] {
            assert!(is_value(value), "{value}");
        }
        for name in [
            "",
            "v1",
            "products",
            "decade",
            "app.js",
            "shop.v2.CartService",
            "well-known",
            "oauth2",
            "List_Of_Things",
        ] {
            assert!(!is_value(name), "{name}");
        }
        assert!(is_value(&"a".repeat(MAX_NAME + 1)));
    }
}
