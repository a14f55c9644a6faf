//! Reads the pod annotation `heddle.dev/destinations`.

use crate::world::{DeclaredDestination, Interner, Port};

/// Reads the annotation. Returns the valid entries, and the text of the invalid ones.
pub(crate) fn read(text: &str, interner: &mut Interner) -> (Vec<DeclaredDestination>, Vec<String>) {
    let (mut declared, mut wrong) = (Vec::new(), Vec::new());
    for text in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
        match entry(text, interner) {
            Some(entry) => declared.push(entry),
            None => wrong.push(text.to_owned()),
        }
    }
    declared.sort();
    declared.dedup();
    (declared, wrong)
}

fn entry(text: &str, interner: &mut Interner) -> Option<DeclaredDestination> {
    let (namespace, rest) = text.split_once('/')?;
    let label = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if !label(namespace) {
        return None;
    }
    if rest == "*" {
        return Some(DeclaredDestination::Namespace(interner.text(namespace)));
    }
    let (service, port) = match rest.split_once(':') {
        Some((service, port)) => (
            service,
            Some(Port::try_from(port.parse::<i32>().ok()?).ok()?),
        ),
        None => (rest, None),
    };
    label(service).then(|| DeclaredDestination::Service(interner.name(namespace, service), port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::world::NamespacedName;

    #[test]
    fn reads_what_is_right_and_names_what_is_not() {
        let mut interner = Interner::default();
        let (declared, wrong) = read(
            "shop/db:3306, legacy/*,shop/reviews , shop, /x, a/b:0, a/b:x, A/b, shop/db:3306",
            &mut interner,
        );
        let service = |name, port: Option<i32>| {
            DeclaredDestination::Service(
                NamespacedName::new("shop", name),
                port.map(|p| Port::try_from(p).unwrap()),
            )
        };
        let expected = [
            service("db", Some(3306)),
            service("reviews", None),
            DeclaredDestination::Namespace("legacy".into()),
        ];
        assert_eq!(declared, expected);
        assert_eq!(wrong, ["shop", "/x", "a/b:0", "a/b:x", "A/b"]);
    }
}
