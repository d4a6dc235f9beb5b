/// Why an assertion or an enrolment is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The client data are not an object of JSON that all readers read alike.
    #[error("the client data are not one JSON object, read strictly")]
    ClientData,
    /// Made in another ceremony.
    #[error("the client data are of another ceremony: `type` is wrong")]
    Type,
    /// Made for another envelope, or an older question.
    #[error("another challenge was signed")]
    Challenge,
    /// Made on another site.
    #[error("signed on an origin that is not allowed")]
    Origin,
    /// Made in a frame of another site.
    #[error("signed within a page of another origin")]
    CrossOrigin,
    /// The authenticator data do not have the form that WebAuthn gives them.
    #[error("the authenticator data are malformed")]
    AuthenticatorData,
    /// The authenticator answered another site.
    #[error("made for another relying party: `rpIdHash` is wrong")]
    RelyingParty,
    /// Nobody touched the authenticator.
    #[error("the person was not present: flag UP is not set")]
    UserPresence,
    /// The authenticator did not ask who is there.
    #[error("the person was not verified: flag UV is not set")]
    UserVerification,
    /// Backed up, though it cannot be.
    #[error("the backup flags contradict each other: BS is set without BE")]
    Backup,
    /// An assertion brings a credential along, which WebAuthn forbids.
    #[error("an assertion carries attested credential data: flag AT is set")]
    UnexpectedCredential,
    /// An enrolment brings none.
    #[error("an enrolment carries no credential: flag AT is not set")]
    NoCredential,
    /// Not an ES256 key.
    #[error("the credential's key is not an ES256 key in canonical COSE form")]
    Key,
    /// The attestation object is not what WebAuthn says it is.
    #[error("the attestation object is malformed")]
    AttestationObject,
    /// An attestation was sent that nobody asked for.
    #[error("the attestation is neither `none` nor the credential's own: ask for `none`")]
    Attestation,
    /// The signature is wrong.
    #[error("the signature does not fit")]
    Signature,
}
