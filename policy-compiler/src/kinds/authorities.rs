//! The certificates of authorities in a spec.

/// The bound on the certificates in one text.
const MAX_AUTHORITIES: usize = 32;

/// The fault of the certificates of authorities, and its repair. Envoy would reject each of them only when a host is called.
pub(super) fn unusable(text: &str) -> Option<(String, &'static str)> {
    let Ok(blocks) = pem::parse_many(text) else {
        let message = "the text is not PEM".to_owned();
        return Some((
            message,
            "copy the certificates with their BEGIN and END lines",
        ));
    };
    // The reader stops at a block without an end.
    if text.matches("-----BEGIN ").count() != blocks.len() {
        let message = format!("a block after the first {} is not whole", blocks.len());
        return Some((
            message,
            "copy the certificates with their BEGIN and END lines",
        ));
    }
    if blocks.is_empty() || blocks.len() > MAX_AUTHORITIES {
        let message = format!(
            "{} certificates are not 1 to {MAX_AUTHORITIES}",
            blocks.len()
        );
        return Some((message, "name the authorities of these hosts alone"));
    }
    blocks.iter().enumerate().find_map(|(index, block)| {
        let number = index + 1;
        if block.tag() != "CERTIFICATE" {
            let message = format!(
                "block {number} is not a certificate but a {:?}",
                block.tag()
            );
            return Some((message, "remove it: certificates of authorities are enough"));
        }
        x509_parser::parse_x509_certificate(block.contents())
            .is_err()
            .then(|| {
                let message = format!("block {number} is not a certificate of X.509");
                (message, "copy the certificate again, or remove it")
            })
    })
}
