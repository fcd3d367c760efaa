// Stands in for @supabase/storage-js in the bundle (vite.config.ts): supabase-js constructs a client at its start.
export class StorageClient {}

export class StorageApiError extends Error {}
