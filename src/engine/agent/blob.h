/* The agent's code as bytes; the entry is the first of them. Made by build.sh. */
#pragma once

extern const unsigned char agent_blob[];
extern const unsigned long agent_blob_size;
