//! How members are spelled, for serde.

/// A type by its one text.
pub(super) mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }

    /// The same of a member that may be absent, and is not `null`.
    pub(crate) mod or_absent {
        use super::{Deserializer, Display, FromStr, Serializer};

        #[expect(clippy::ref_option, reason = "serde hands in a reference to the member")]
        pub(crate) fn serialize<T, S>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error>
        where
            T: Display,
            S: Serializer,
        {
            match value {
                Some(value) => super::serialize(value, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
        where
            T: FromStr<Err: Display>,
            D: Deserializer<'de>,
        {
            super::deserialize(deserializer).map(Some)
        }
    }
}

/// Bytes in base64url, unpadded, with one spelling for each value.
pub(super) mod base64url {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<T: AsRef<[u8]>, S: Serializer>(
        bytes: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: TryFrom<Vec<u8>>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| {
            de::Error::custom(format!("`{text}` is not unpadded base64url of the right length"))
        })
    }
}

/// Free-form JSON, made canonical when it comes in.
pub(super) mod json {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
    use serde_json::value::RawValue;

    use crate::Json;

    pub(crate) fn serialize<S: Serializer>(json: &Json, serializer: S) -> Result<S::Ok, S::Error> {
        json.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Json::parse(raw.get().as_bytes()).map_err(de::Error::custom)
    }
}

/// A public key as a JWK of the four members that matter, in JCS order.
pub(super) mod jwk {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use crate::VerifyingKey;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Members {
        crv: String,
        kty: String,
        x: String,
        y: String,
    }

    impl From<&VerifyingKey> for Members {
        fn from(key: &VerifyingKey) -> Self {
            let (crv, kty) = ("P-256".to_owned(), "EC".to_owned());
            Self { crv, kty, x: key.x().to_owned(), y: key.y().to_owned() }
        }
    }

    impl TryFrom<Members> for VerifyingKey {
        type Error = String;

        fn try_from(Members { crv, kty, x, y }: Members) -> Result<Self, String> {
            if (crv.as_str(), kty.as_str()) != ("P-256", "EC") {
                return Err("a public key is not a P-256 key".to_owned());
            }
            Self::from_coordinates(&x, &y).map_err(|error| error.to_string())
        }
    }

    pub(crate) fn serialize<S: Serializer>(key: &VerifyingKey, serializer: S) -> Result<S::Ok, S::Error> {
        Members::from(key).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VerifyingKey, D::Error> {
        Members::deserialize(deserializer)?.try_into().map_err(de::Error::custom)
    }

    /// The same, or `null`.
    pub(crate) mod or_null {
        use super::{Deserialize, Deserializer, Members, Serialize, Serializer, VerifyingKey, de};

        pub(crate) fn serialize<S: Serializer>(
            key: &Option<VerifyingKey>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            key.as_ref().map(Members::from).serialize(serializer)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<VerifyingKey>, D::Error> {
            let members = Option::<Members>::deserialize(deserializer)?;
            members.map(TryInto::try_into).transpose().map_err(de::Error::custom)
        }
    }
}
