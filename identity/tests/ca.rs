//! The CA and its check of requests, as tables.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::{Duration, SystemTime};

use heddle_identity::{
    Ca, CaError, CsrError, IssueError, MAX_CSR_BYTES, RootPem, SpiffeId, TrustDomain, WorkloadKey,
    holder_of,
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const HOUR: Duration = Duration::from_secs(3600);

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new(domain(), "shop", account).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn csr(
    alg: &'static rcgen::SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> Vec<u8> {
    let mut params = CertificateParams::default();
    change(&mut params);
    params
        .serialize_request(&KeyPair::generate_for(alg).unwrap())
        .unwrap()
        .der()
        .to_vec()
}

fn p256(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    csr(&rcgen::PKCS_ECDSA_P256_SHA256, change)
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        .try_into()
        .unwrap()
}

#[test]
fn a_leaf_is_exactly_what_it_should_be() {
    let now = SystemTime::now();
    let (ca, _) = Ca::create(&domain(), now).unwrap();
    let key = WorkloadKey::generate().unwrap();
    let issued = ca
        .issue(
            &key.csr(&id("cart")).unwrap(),
            &id("cart"),
            "cart-1",
            HOUR,
            now,
        )
        .unwrap();
    assert_eq!(issued.chain.len(), 1, "the root is not part of the chain");
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let names = &leaf
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(
        names,
        &[GeneralName::URI("spiffe://cluster.local/ns/shop/sa/cart")]
    );
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.any && usage.other.is_empty());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    assert_eq!(leaf.validity().not_before.timestamp(), seconds(now) - 300);
    assert_eq!(leaf.validity().not_after.timestamp(), seconds(now) + 3600);
    assert_eq!(seconds(issued.not_after), seconds(now) + 3600);
    let common: Vec<_> = leaf.subject().iter_common_name().collect();
    assert_eq!(common.len(), leaf.subject().iter().count());
    let common: Vec<_> = common.iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(common, ["cart-1"]);
}

#[test]
fn a_long_name_of_a_pod_is_told_from_others_in_64_characters() {
    let (one, other) = ("a".repeat(253), "a".repeat(252));
    assert_eq!(holder_of("cart-1"), "cart-1");
    assert_eq!(holder_of(&one).len(), 64);
    assert_ne!(holder_of(&one), holder_of(&other));
}

#[test]
fn the_same_key_twice_gives_two_serials() {
    let now = SystemTime::now();
    let (ca, _) = Ca::create(&domain(), now).unwrap();
    let request = WorkloadKey::generate().unwrap().csr(&id("cart")).unwrap();
    let serial = |_| {
        let issued = ca
            .issue(&request, &id("cart"), "cart-1", HOUR, now)
            .unwrap();
        X509Certificate::from_der(&issued.chain[0])
            .unwrap()
            .1
            .raw_serial_as_string()
    };
    let serials: std::collections::BTreeSet<String> = (0..20).map(serial).collect();
    assert_eq!(serials.len(), 20);
}

#[test]
fn good_requests_pass() {
    let own = id("cart").to_string();
    for (what, request) in [
        ("no name at all", p256(|_| {})),
        (
            "its own name",
            p256(|p| p.subject_alt_names = vec![uri(&own)]),
        ),
        (
            "ed25519",
            csr(&rcgen::PKCS_ED25519, |p| {
                p.subject_alt_names = vec![uri(&own)]
            }),
        ),
        ("explicitly no CA", p256(|p| p.is_ca = IsCa::ExplicitNoCa)),
        (
            "a key usage of its own",
            p256(|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
        ),
        (
            "a subject",
            p256(|p| {
                p.distinguished_name
                    .push(DnType::CommonName, "spiffe://cluster.local/ns/a/sa/b")
            }),
        ),
    ] {
        let now = SystemTime::now();
        let (ca, _) = Ca::create(&domain(), now).unwrap();
        let issued = ca
            .issue(&request, &id("cart"), "cart-1", HOUR, now)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        assert!(
            leaf.subject().to_string() == "CN=cart-1",
            "{what}: nothing of the request's subject is taken over"
        );
        assert!(
            !leaf.key_usage().unwrap().unwrap().value.key_agreement(),
            "{what}"
        );
    }
}

#[test]
fn bad_requests_are_refused_with_their_reason() {
    let own = id("cart").to_string();
    let sound = p256(|_| {});
    let mut forged = sound.clone();
    *forged.last_mut().unwrap() ^= 1;
    let mut trailing = sound.clone();
    trailing.push(0);
    let foreign = |asked: &str| CsrError::ForeignName {
        asked: asked.into(),
        caller: Box::new(id("cart")),
    };
    let name = |name: SanType| p256(|p| p.subject_alt_names = vec![name]);
    let other = "spiffe://cluster.local/ns/shop/sa/admin";
    let cases: Vec<(&str, Vec<u8>, CsrError)> = vec![
        ("empty", vec![], CsrError::Malformed),
        ("garbage", vec![0x30; 400], CsrError::Malformed),
        (
            "a length that lies",
            vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0],
            CsrError::Malformed,
        ),
        (
            "cut off",
            sound[..sound.len() / 2].to_vec(),
            CsrError::Malformed,
        ),
        ("something after it", trailing, CsrError::Malformed),
        (
            "oversized",
            vec![0x30; MAX_CSR_BYTES + 1],
            CsrError::TooLarge(MAX_CSR_BYTES + 1),
        ),
        ("another's signature", forged, CsrError::Signature),
        (
            "P-384",
            csr(&rcgen::PKCS_ECDSA_P384_SHA384, |_| {}),
            CsrError::Algorithm,
        ),
        ("another account", name(uri(other)), foreign(other)),
        (
            "another domain",
            name(uri("spiffe://evil/ns/shop/sa/cart")),
            foreign("spiffe://evil/ns/shop/sa/cart"),
        ),
        (
            "a longer name",
            name(uri(&format!("{own}/x"))),
            foreign(&format!("{own}/x")),
        ),
        (
            "other letters",
            name(uri(&own.to_uppercase())),
            foreign(&own.to_uppercase()),
        ),
        (
            "its own name and another",
            p256(|p| p.subject_alt_names = vec![uri(&own), uri(other)]),
            foreign(other),
        ),
        (
            "a DNS name",
            name(SanType::DnsName("kubernetes.default".try_into().unwrap())),
            foreign("DNSName(kubernetes.default)"),
        ),
        (
            "a CA",
            p256(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            CsrError::Authority,
        ),
        (
            "cert sign",
            p256(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            CsrError::Authority,
        ),
        (
            "an unknown extension",
            p256(|p| {
                p.custom_extensions =
                    vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])]
            }),
            CsrError::Unexpected("1.2.3.4".into()),
        ),
    ];
    for (what, request, want) in cases {
        let now = SystemTime::now();
        let (ca, _) = Ca::create(&domain(), now).unwrap();
        match ca.issue(&request, &id("cart"), "cart-1", HOUR, now) {
            Err(IssueError::Csr(error)) => assert_eq!(error, want, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn a_long_foreign_name_is_not_repeated_in_full() {
    let request =
        p256(|p| p.subject_alt_names = vec![uri(&format!("spiffe://{}", "x".repeat(5000)))]);
    let error = heddle_identity::check_csr(&request, &id("cart")).unwrap_err();
    assert!(error.to_string().len() < 400);
}

#[test]
fn nothing_outlives_the_root_and_an_ended_root_issues_nothing() {
    let now = SystemTime::now();
    let (ca, _) = Ca::create(&domain(), now).unwrap();
    let request = WorkloadKey::generate().unwrap().csr(&id("cart")).unwrap();
    let far = HOUR * 24 * 365 * 30;
    let issued = ca.issue(&request, &id("cart"), "cart-1", far, now).unwrap();
    assert_eq!(issued.not_after, ca.not_after());
    let late = ca.not_after() - Duration::from_secs(60);
    assert_eq!(
        ca.issue(&request, &id("cart"), "cart-1", HOUR, late)
            .unwrap()
            .not_after,
        ca.not_after()
    );
    let over = ca.issue(&request, &id("cart"), "cart-1", HOUR, ca.not_after());
    assert!(
        matches!(over, Err(IssueError::Ca(CaError::NotValidNow { .. }))),
        "{over:?}"
    );
    let nothing = ca.issue(&request, &id("cart"), "cart-1", Duration::ZERO, now);
    assert!(
        matches!(nothing, Err(IssueError::Ca(CaError::NotValidNow { .. }))),
        "{nothing:?}"
    );
    assert_eq!(
        ca.issue(&request, &id("cart"), "cart-1", Duration::MAX, now)
            .unwrap()
            .not_after,
        ca.not_after()
    );
}

#[test]
fn roots_that_are_none_are_refused() {
    let now = SystemTime::now();
    let (ca, good) = Ca::create(&domain(), now).unwrap();
    let (_, other) = Ca::create(&domain(), now).unwrap();
    let leaf = ca
        .server_certificate(&["a.b".into()], &[], &id("x"), HOUR, now)
        .unwrap();
    let leaf_pem = pem::encode(&pem::Pem::new("CERTIFICATE", leaf.issued.chain[0].to_vec()));
    let root = |certificates: &str, private_key: &str| RootPem {
        certificates: certificates.into(),
        private_key: private_key.into(),
    };
    for (what, root, at, says) in [
        (
            "nothing",
            root("", &good.private_key),
            now,
            "no certificate",
        ),
        ("garbage", root("-----BEGIN", &good.private_key), now, "no"),
        (
            "another's key",
            root(&good.certificates, &other.private_key),
            now,
            "not that of",
        ),
        ("no key", root(&good.certificates, "x"), now, "private key"),
        (
            "a leaf",
            root(&leaf_pem, &leaf.key.private_key_pem()),
            now,
            "not a CA certificate",
        ),
        (
            "a key among them",
            root(&good.private_key, &good.private_key),
            now,
            "something else",
        ),
        ("an ended one", good.clone(), ca.not_after(), "not now"),
        ("one to come", good.clone(), now - HOUR, "not now"),
    ] {
        let error = Ca::load(&root, at).expect_err(what).to_string();
        assert!(error.contains(says), "{what}: {error}");
        assert!(!error.contains("PRIVATE"), "{what}: {error}");
    }
}

#[test]
fn further_roots_are_trusted_but_sign_nothing() {
    let now = SystemTime::now();
    let (old, old_pem) = Ca::create(&domain(), now).unwrap();
    let (new, new_pem) = Ca::create(&domain(), now).unwrap();
    let both = RootPem {
        certificates: new_pem.certificates + &old_pem.certificates,
        private_key: new_pem.private_key.clone(),
    };
    let ca = Ca::load(&both, now).unwrap();
    assert_eq!(ca.trust_bundle().matches("BEGIN CERTIFICATE").count(), 2);
    assert!(ca.trust_bundle().contains(old.trust_bundle().trim()));
    assert_eq!(ca.fingerprint(), new.fingerprint());
}

#[test]
fn secrets_do_not_print() {
    let now = SystemTime::now();
    let (ca, root) = Ca::create(&domain(), now).unwrap();
    let server = ca
        .server_certificate(&[], &[], &id("x"), HOUR, now)
        .unwrap();
    let secret = root.private_key.lines().nth(1).unwrap();
    for text in [
        format!("{ca:?}"),
        format!("{root:?}"),
        format!("{server:?}"),
        format!("{:?}", server.key),
    ] {
        assert!(
            text.contains("[redacted]") && !text.contains(secret) && !text.contains("PRIVATE"),
            "{text}"
        );
    }
}

#[test]
fn the_asker_takes_only_what_fits() {
    use heddle_identity::{Credential, wire::IssueResponse};
    let now = SystemTime::now();
    let ((ca, _), (other_ca, _)) = (
        Ca::create(&domain(), now).unwrap(),
        Ca::create(&domain(), now).unwrap(),
    );
    let (key, other_key) = (
        WorkloadKey::generate().unwrap(),
        WorkloadKey::generate().unwrap(),
    );
    let answer = |ca: &Ca, key: &WorkloadKey, who: &SpiffeId| {
        let issued = ca
            .issue(&key.csr(who).unwrap(), who, "cart-1", HOUR, now)
            .unwrap();
        IssueResponse {
            certificate_chain: issued.chain.iter().map(|c| c.to_vec()).collect(),
            trust_bundle: ca.trust_bundle().to_owned(),
            not_before: seconds(issued.not_before),
            issued_at: seconds(now),
            not_after: seconds(issued.not_after),
            spiffe_id: who.to_string(),
            zone: "zone-a".to_owned(),
        }
    };
    let sound = answer(&ca, &key, &id("cart"));
    let taken = Credential::accept(sound.clone(), &key, &id("cart")).unwrap();
    assert_eq!(taken.lifetime, HOUR);
    assert!(taken.chain_pem().starts_with("-----BEGIN CERTIFICATE"));
    for (what, answer, says) in [
        (
            "another key",
            answer(&ca, &other_key, &id("cart")),
            "another key",
        ),
        (
            "another identity",
            answer(&ca, &key, &id("admin")),
            "another identity",
        ),
        (
            "nothing",
            IssueResponse {
                certificate_chain: vec![],
                ..sound.clone()
            },
            "no certificate",
        ),
        (
            "garbage",
            IssueResponse {
                certificate_chain: vec![vec![1, 2, 3]],
                ..sound.clone()
            },
            "not a certificate",
        ),
        (
            "an ended one",
            IssueResponse {
                issued_at: sound.not_after,
                ..sound.clone()
            },
            "over",
        ),
        (
            "no root",
            IssueResponse {
                trust_bundle: String::new(),
                ..sound.clone()
            },
            "no root",
        ),
        (
            "another root",
            IssueResponse {
                trust_bundle: other_ca.trust_bundle().into(),
                ..sound.clone()
            },
            "no root",
        ),
    ] {
        let error = Credential::accept(answer, &key, &id("cart"))
            .expect_err(what)
            .to_string();
        assert!(error.contains(says), "{what}: {error}");
    }
}
