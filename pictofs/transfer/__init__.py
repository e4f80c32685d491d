"""Bytes on their way: the spool, the journal, uploads and downloads."""
