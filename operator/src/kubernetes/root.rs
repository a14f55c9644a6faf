//! The root in the Secret `heddle-ca`: created by whichever replica is first, read by all.

use heddle_identity::{Created, RootPem, RootStore};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};

use super::{CallError, NAMESPACE, call};

const NAME: &str = "heddle-ca";
const CERTIFICATES: &str = "ca.crt";
const KEY: &str = "ca.key";

/// Why the root cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The API server.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What is in it.
    #[error("Secret {NAMESPACE}/{NAME}: `{0}` is missing or no text")]
    Content(&'static str),
}

pub(super) struct SecretRoot(Api<Secret>);

impl SecretRoot {
    pub(super) fn new(client: &Client) -> Self {
        Self(Api::namespaced(client.clone(), NAMESPACE))
    }
}

impl RootStore for SecretRoot {
    type Error = SecretError;

    async fn load(&self) -> Result<Option<RootPem>, SecretError> {
        // `get`, not `list`: the right to read is for this one name.
        let secret = match call(self.0.get_opt(NAME)).await? {
            Some(secret) => secret,
            None => return Ok(None),
        };
        let data = secret.data.unwrap_or_default();
        let text = |key: &'static str| {
            let bytes = data.get(key).ok_or(SecretError::Content(key))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| SecretError::Content(key))
        };
        Ok(Some(RootPem {
            certificates: text(CERTIFICATES)?,
            private_key: text(KEY)?,
        }))
    }

    async fn create(&self, root: &RootPem) -> Result<Created, SecretError> {
        let bytes = |text: &String| ByteString(text.clone().into_bytes());
        let data = [
            (CERTIFICATES.to_owned(), bytes(&root.certificates)),
            (KEY.to_owned(), bytes(&root.private_key)),
        ];
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(data.into()),
            ..Secret::default()
        };
        match call(self.0.create(&PostParams::default(), &secret)).await {
            Ok(_) => Ok(Created::Yes),
            Err(error) if error.code() == Some(409) => Ok(Created::AlreadyThere),
            Err(error) => Err(error.into()),
        }
    }
}
