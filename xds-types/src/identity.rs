//! The parts of an identity.

/// The namespace and the service account of a SPIFFE id of a workload, `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`. `None`: it is not one.
#[must_use]
pub fn account_of(identity: &str) -> Option<(&str, &str)> {
    let (_, path) = identity.split_once("/ns/")?;
    path.split_once("/sa/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_a_namespace_and_an_account() {
        let cart = "spiffe://cluster.local/ns/shop/sa/cart";
        assert_eq!(account_of(cart), Some(("shop", "cart")));
        assert_eq!(account_of("spiffe://cluster.local/control-plane"), None);
        assert_eq!(account_of(""), None);
    }
}
