"""Errors of S3 requests: codes and status as Amazon has them."""

from __future__ import annotations

from objectcache.errors.core import RequestError


class AccessDeniedError(RequestError):
    """The key may not do this, or the signature leaves out what it must cover, or has expired."""

    code = "AccessDenied"
    status = 403


class InvalidAccessKeyIdError(RequestError):
    """No such access key here."""

    code = "InvalidAccessKeyId"
    status = 403


class SignatureDoesNotMatchError(RequestError):
    """The request, or a chunk of its body, is not what was signed, or was signed with another secret."""

    code = "SignatureDoesNotMatch"
    status = 403


class RequestTimeTooSkewedError(RequestError):
    """The client's clock and ours are too far apart."""

    code = "RequestTimeTooSkewed"
    status = 403


class AuthorizationHeaderMalformedError(RequestError):
    code = "AuthorizationHeaderMalformed"
    status = 400


class AuthorizationQueryParametersError(RequestError):
    """The parameters of a presigned URL are incomplete or out of bounds."""

    code = "AuthorizationQueryParametersError"
    status = 400


class MissingSecurityHeaderError(RequestError):
    """A signed request lacks a header that it needs."""

    code = "MissingSecurityHeader"
    status = 400


class InvalidDigestError(RequestError):
    """Content-MD5 is no MD5 at all (BadDigestError: it is another body's)."""

    code = "InvalidDigest"
    status = 400


class ContentSHA256MismatchError(RequestError):
    """The body is not the one whose SHA-256 was signed."""

    code = "XAmzContentSHA256Mismatch"
    status = 400


class InvalidArgumentError(RequestError):
    """A header or a query parameter has a value that cannot be."""

    code = "InvalidArgument"
    status = 400


class MalformedTrailerError(RequestError):
    """What follows a chunked body is not the trailer that was announced."""

    code = "MalformedTrailerError"
    status = 400


class InvalidBucketNameError(RequestError):
    code = "InvalidBucketName"
    status = 400


class BucketNotEmptyError(RequestError):
    code = "BucketNotEmpty"
    status = 409


class KeyTooLongError(RequestError):
    code = "KeyTooLongError"
    status = 400


class MalformedXMLError(RequestError):
    code = "MalformedXML"
    status = 400


class MissingContentLengthError(RequestError):
    code = "MissingContentLength"
    status = 411


class MethodNotAllowedError(RequestError):
    """A method or sub-resource that is not served."""

    code = "MethodNotAllowed"
    status = 405


class EntityTooLargeError(RequestError):
    code = "EntityTooLarge"
    status = 413


class EntityTooSmallError(RequestError):
    """A part of a multipart upload, other than the last, below S3's minimum."""

    code = "EntityTooSmall"
    status = 400


class InvalidPartError(RequestError):
    """A part is not there, or has another ETag."""

    code = "InvalidPart"
    status = 400


class InvalidPartOrderError(RequestError):
    code = "InvalidPartOrder"
    status = 400
