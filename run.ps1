<#
.SYNOPSIS
    Starts the speech gateway, waits until it is ready and prints its address. Options are passed on to the server.
.EXAMPLE
    .\run.ps1
.EXAMPLE
    .\run.ps1 --port 8123 --config gateway.toml
#>

$ErrorActionPreference = 'Stop'
try { [Console]::OutputEncoding = New-Object System.Text.UTF8Encoding $false } catch { Write-Verbose 'no console' }
$env:PYTHONUTF8 = '1'
Set-Location -LiteralPath $PSScriptRoot

$python = Join-Path $PSScriptRoot '.venv\Scripts\python.exe'
if (-not (Test-Path -LiteralPath $python)) {
    Write-Host 'Nothing is installed yet. Run .\setup.ps1 first.'
    exit 1
}
& $python scripts/bootstrap.py run '--' @args
exit $LASTEXITCODE
