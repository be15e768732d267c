//! Mutual TLS with the SPIFFE broker, by X.509-SVIDs on both sides.
//!
//! In: the daemon's SVID, the authorities of the broker's trust domain, the broker's SPIFFE ID. Out: a
//! connection on which it is the broker that answers. Its certificate names no host, so the one
//! question is whether an authority of that trust domain vouches for that SPIFFE ID. The same over a
//! unix socket: who may bind a path is another question than who the broker is.

use std::{io, path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::ParsedCertificate,
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use super::{BrokerAddress, BrokerConfig};
use crate::resolver::spiffe::SpiffeId;

/// Why there is no such connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// A file that can't be used.
    #[error("{path}: {source}; give a PEM file with the {what}")]
    File { path: String, what: &'static str, source: pem::Error },
    /// A file with nothing in it.
    #[error("{path} has no certificate; give a PEM file with the {what}")]
    Empty { path: String, what: &'static str },
    /// Files that don't go together.
    #[error("the daemon's SVID and key can't be used: {0}; see `--spiffe-svid` and `--spiffe-key`")]
    Config(#[from] rustls::Error),
}

/// The daemon's side of a connection, from the files as they are now.
pub(super) fn client_config(config: &BrokerConfig) -> Result<ClientConfig, TlsError> {
    let BrokerConfig { address: _, id, svid, key, bundle } = config;
    let chain = certificates(svid, "daemon's X.509-SVID")?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|source| file(key, "private key of the daemon's X.509-SVID", source))?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(bundle, "authorities of the broker's trust domain")? {
        roots.add(authority)?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = BrokerVerifier { roots, id: id.clone(), provider: Arc::clone(&provider) };
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, private)?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(client)
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(none) if none.is_empty() => {
            Err(TlsError::Empty { path: path.display().to_string(), what })
        }
        Ok(all) => Ok(all),
        Err(source) => Err(file(path, what, source)),
    }
}

fn file(path: &Path, what: &'static str, source: pem::Error) -> TlsError {
    TlsError::File { path: path.display().to_string(), what, source }
}

/// What carries the connection.
trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

/// Connects. Whoever waits for it has the deadline.
pub(super) async fn connect(
    config: &BrokerConfig,
) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
    let client = client_config(config).map_err(io::Error::other)?;
    let carrier: Box<dyn Carrier> = match &config.address {
        BrokerAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
        BrokerAddress::Tcp(target) => Box::new(TcpStream::connect(target).await?),
    };
    // Sent to nobody and compared with nothing.
    let name = ServerName::try_from("broker").map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(client));
    connector.connect(name, carrier).await
}

#[derive(Debug)]
struct BrokerVerifier {
    roots: RootCertStore,
    id: SpiffeId,
    provider: Arc<CryptoProvider>,
}

impl BrokerVerifier {
    fn check_name(&self, certificate: &CertificateDer<'_>) -> Result<(), String> {
        let found = spiffe::cert::spiffe_id_from_der(certificate)
            .map_err(|error| format!("the certificate is no X.509-SVID: {error}"))?;
        if found.to_string() == self.id.as_str() {
            return Ok(());
        }
        Err(format!("it is {found} that answers, not {}", self.id))
    }
}

impl ServerCertVerifier for BrokerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        self.check_name(end_entity).map_err(|problem| {
            let error = OtherError(Arc::new(io::Error::other(problem)));
            rustls::Error::InvalidCertificate(CertificateError::Other(error))
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
