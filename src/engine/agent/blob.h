/* The agent's code as bytes; the entry is the first of them. Made by build.sh. */
#pragma once

extern const unsigned char agent_blob[];
extern const unsigned long agent_blob_size;
/* digest.c. To be placed at a multiple of AGENT_DIGEST_ALIGN. */
extern const unsigned char digest_blob[], digest_avx2_blob[];
extern const unsigned long digest_blob_size, digest_avx2_blob_size;
