//! Whom to believe that they are a registry.
//!
//! The machine's authorities, those of `certs.d`, or nobody at all for a registry that was declared
//! insecure. Knows no requests.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::RegistryError;
use super::settings::HostFiles;

/// How much a certificate has to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    Verified,
    /// Anything goes, also no TLS.
    Insecure,
}

pub fn configuration(trust: Trust, files: &HostFiles) -> Result<ClientConfig, RegistryError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has the cipher suites of TLS 1.2 and 1.3");
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Insecure => Arc::new(Anybody {
            provider,
            is_trusted: true,
        }),
        Trust::Verified => verifier(files, provider)?,
    };
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((certificate, key)) = &files.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate)?;
    let bad_key = |error: &dyn std::fmt::Display| RegistryError::BadSettings {
        path: key.clone(),
        why: error.to_string(),
    };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_key(&error))?;
    builder
        .with_client_auth_cert(chain, private)
        .map_err(|error| bad_key(&error))
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let bad = |error: rustls::pki_types::pem::Error| RegistryError::BadSettings {
        path: path.to_owned(),
        why: error.to_string(),
    };
    CertificateDer::pem_file_iter(path)
        .map_err(bad)?
        .collect::<Result<_, _>>()
        .map_err(bad)
}

fn verifier(
    files: &HostFiles,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, RegistryError> {
    let mut roots = RootCertStore::empty();
    // A bundle with one bad certificate in it is used without that one, as everywhere.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let mut placed = Vec::new();
    for path in &files.authorities {
        for certificate in certificates(path)? {
            roots
                .add(certificate.clone())
                .map_err(|error| RegistryError::BadSettings {
                    path: path.clone(),
                    why: error.to_string(),
                })?;
            placed.push(certificate);
        }
    }
    if roots.is_empty() {
        // A machine without `ca-certificates`: every handshake fails, and says so.
        return Ok(Arc::new(Anybody {
            provider,
            is_trusted: false,
        }));
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .expect("there are roots and no revocation lists");
    Ok(Arc::new(Placed { inner, placed }))
}

/// The usual rules, and one exception: a certificate that the administrator has put into `certs.d`
/// may be the registry's own although it is marked as an authority. That is what `openssl req -x509`
/// makes, what Docker's documentation tells to make, and what Go accepts.
#[derive(Debug)]
struct Placed {
    inner: Arc<WebPkiServerVerifier>,
    placed: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Placed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let result =
            self.inner
                .verify_server_cert(end_entity, intermediates, server_name, ocsp, now);
        match &result {
            // Times have been checked before this verdict.
            Err(Error::InvalidCertificate(CertificateError::Other(other)))
                if other.to_string().contains("CaUsedAsEndEntity")
                    && self.placed.contains(end_entity) =>
            {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            _ => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The same verdict about everybody: for registries that were declared insecure, and without any
/// authority, when nobody can prove anything.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
    is_trusted: bool,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.is_trusted {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
