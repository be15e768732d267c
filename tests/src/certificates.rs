//! Certificate authorities of tests, and what they vouch for.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};

/// An authority: of a SPIFFE trust domain, or of web servers.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub struct Credential {
    /// The certificate, DER.
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: KeyPair,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// Vouches for a SPIFFE ID.
    pub fn svid(&self, id: &str) -> Credential {
        let id = id.try_into().expect("a SPIFFE ID is ASCII");
        self.vouch(SanType::URI(id))
    }

    /// Vouches for a web server.
    pub fn server(&self, name: &str) -> Credential {
        let name = match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_no_address) => SanType::DnsName(name.try_into().expect("a name is ASCII")),
        };
        self.vouch(name)
    }

    fn vouch(&self, name: SanType) -> Credential {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Credential {
            certificate_pem: certificate.pem(),
            certificate: certificate.der().clone(),
            key,
        }
    }

    /// Writes its certificate.
    pub fn write(&self, directory: &Path, name: &str) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, self.0.pem()).expect("an own file");
        path
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("an authority");
        Arc::new(roots)
    }
}

impl Credential {
    /// Writes certificate and key, as `NAME.pem` and `NAME.key`.
    pub fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (svid, key) = (format!("{name}.pem"), format!("{name}.key"));
        let (svid, key) = (directory.join(svid), directory.join(key));
        fs::write(&svid, &self.certificate_pem).expect("an own file");
        fs::write(&key, self.key.serialize_pem()).expect("an own file");
        (svid, key)
    }

    /// What a server with it says, over HTTP of a version; `clients`: who vouches for those that may
    /// connect, where they must show a certificate.
    pub fn serve(&self, alpn: &[u8], clients: Option<&Authority>) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("a version of TLS");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(authority.roots(), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let config = builder.with_single_cert(vec![self.certificate.clone()], key);
        let mut config = config.expect("a certificate and its key");
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }
}
